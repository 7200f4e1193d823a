"""Configuration of the cluster stage."""

from esans.config import config


@config
class ClusterConfig:
    """Keys under `cluster`."""
