"""Keys of samplers whose negatives lie in the shards, apart from their torch modules: a wrong key must show before torch is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from esans.config import PositiveInt, config
from esans.errors import ConfigError
from esans.negatives.config import HardMixConfig, SamplerConfig, SemanticConfig, SimpleMixConfig


@config
class StitchedEasyConfig(SimpleMixConfig):
    """Keys of a `stitched_easy` group; how many negatives there are is set where they are drawn, in `shards.stitch`."""


@config
class StitchedHardConfig(HardMixConfig):
    """Keys of a `stitched_hard` group; how many negatives there are is set where they are drawn, in `shards.stitch`."""


@config
class ExposedConfig(SemanticConfig):
    """Keys of an `exposed` group."""

    num_negatives: PositiveInt | None = None
    """The latest so many exposures of those in the shards; by default all of them."""


CONFIGS: dict[str, type[SamplerConfig]] = {
    "stitched_easy": StitchedEasyConfig,
    "stitched_hard": StitchedHardConfig,
    "exposed": ExposedConfig,
}

# The key of `shards` that makes the stage write what a sampler reads; at 0 it writes nothing.
SOURCES = {"stitched_easy": "stitch.draws", "stitched_hard": "stitch.draws", "exposed": "exposures"}


def check_sources(groups: Sequence[Mapping[str, Any]], shards: Mapping[str, Any]) -> None:
    """Raise ConfigError where a group reads from the shards what their config does not write.

    Args:
        groups: `train.negatives`.
        shards: keys under `shards`, flat, such as stitch.draws.
    """
    for place, group in enumerate(groups):
        name = group.get("sampler")
        key = SOURCES.get(str(name))
        if key is not None and not shards[key]:
            raise ConfigError(
                f"train.negatives.{place}: the {name} sampler reads negatives that the shards stage writes, and shards.{key} = 0: "
                "set it to 1 or more."
            )
