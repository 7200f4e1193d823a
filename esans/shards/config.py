"""Configuration of the shards stage."""

from typing import Annotated

from pydantic import Field

from esans.config import NonNegativeInt, PositiveFloat, PositiveInt, config, section


@config
class StitchConfig:
    """Keys under `shards.stitch`: semantic negatives that Spark draws and joins to the examples, instead of the training device."""

    draws: NonNegativeInt = 0
    """Independent draws stored with each example; training takes one of them, at random, each time it meets the example.
    0 stores none, and the stage then reads no clusters. As many as there are epochs is nearly as fresh as drawing on the device."""
    clusters: PositiveInt = 2
    """m_c: primaries drawn per draw, without replacement; fewer than there are other primaries."""
    per_cluster: Annotated[int, Field(ge=2)] = 5
    """m_o: items drawn inside each primary. At least 2."""
    hard: PositiveInt = 5
    """n_h: hard items per draw."""
    transition_temperature: PositiveFloat | None = None
    """T_c of the draw between primaries, above 0; by default the table that the cluster stage wrote."""


@config
class ShardsConfig:
    """Keys under `shards`."""

    history_length: PositiveInt = 100
    """Items of a training example's history window; shorter ones are padded at the left."""
    exclude_same_order: bool = False
    """Leave the items of the positive's own order out of its history; needs `prepare.interactions.columns.order_id`."""
    largest_order: PositiveInt = 1000
    """Items of one order that `exclude_same_order` looks back over; in larger orders the history may be shorter."""
    min_history: NonNegativeInt = 1
    """Examples with fewer history items are left out, and counted."""
    rows_per_shard: PositiveInt = 16_384
    """Aim for this many examples in one Parquet file (one row group)."""
    exposures: NonNegativeInt = 0
    """Most items per example that its user was last shown before the positive and never chose, for the `exposed` sampler; 0 stores none.
    Needs `prepare.events.exposures`."""
    stitch: StitchConfig = section(StitchConfig)
    """Negatives joined to the examples, for the samplers `stitched_easy` and `stitched_hard`."""
