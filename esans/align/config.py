"""Configuration of the align stage."""

from esans.config import config


@config
class AlignConfig:
    """Keys under `align`."""
