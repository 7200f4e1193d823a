"""Configuration of the evaluate stage."""

from esans.config import config


@config
class EvaluateConfig:
    """Keys under `evaluate`."""
