"""Configuration of the prepare stage."""

from esans.config import config


@config
class PrepareConfig:
    """Keys under `prepare`."""
