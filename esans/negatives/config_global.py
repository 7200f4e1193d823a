"""Keys of the samplers with a closed form beside uniform and in-batch, apart from their torch modules.

A wrong key must show before torch is loaded.
"""

from __future__ import annotations

from esans.config import NonNegativeFloat, PositiveFloat, PositiveInt, config
from esans.negatives.config import SamplerConfig, SemanticConfig


@config
class PopularityConfig(SamplerConfig):
    """Keys of a `popularity` group."""

    num_negatives: PositiveInt = 64
    """Draws per example, or per batch when `shared`."""
    shared: bool = False
    """One pool for the whole batch."""
    power: NonNegativeFloat = 0.75
    """Q is proportional to the item's train count to this power; 0 is uniform, 1 follows the counts."""


@config
class CrossBatchConfig(SamplerConfig):
    """Keys of a `cross_batch` group."""

    capacity: PositiveInt = 4096
    """M: item vectors of past steps that are kept, the newest; at least the batch of one process."""


@config
class MidxConfig(SamplerConfig):
    """Keys of a `midx` group."""

    num_negatives: PositiveInt = 64
    """Draws per example."""
    temperature: PositiveFloat | None = None
    """Temperature of the draw between clusters; by default the loss's, one step behind."""
    memory: PositiveInt = 256
    """Item vectors that the mean of a cluster looks back on, about; fewer follow the towers faster, more are steadier."""


@config
class CategoryConfig(SemanticConfig):
    """Keys of a `category` group."""

    column: str
    """Side column whose value a negative shares with the positive: a name of prepare.items.side; a number counts by its bucket."""
    num_negatives: PositiveInt = 5
    """Draws per example."""


@config
class FullSoftmaxConfig(SamplerConfig):
    """Keys of a `full_softmax` group."""

    max_items: PositiveInt = 200_000
    """Largest catalogue: a step holds a score for every pair of an example and an item."""


# By the name of the sampler's file.
CONFIGS: dict[str, type[SamplerConfig]] = {
    "popularity": PopularityConfig,
    "cross_batch": CrossBatchConfig,
    "midx": MidxConfig,
    "category": CategoryConfig,
    "full_softmax": FullSoftmaxConfig,
}
