"""Configuration of the features stage."""

from esans.config import config


@config
class FeaturesConfig:
    """Keys under `features`."""
