"""Configuration of the references stage."""

from esans.config import config


@config
class ReferencesConfig:
    """Keys under `references`."""
