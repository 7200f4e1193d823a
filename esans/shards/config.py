"""Configuration of the shards stage."""

from esans.config import config


@config
class ShardsConfig:
    """Keys under `shards`."""
