"""Configuration of the train stage."""

from esans.config import config


@config
class TrainConfig:
    """Keys under `train`."""

    def resolve_groups(self) -> None:
        """Validate every negative group against its sampler's own Config."""
