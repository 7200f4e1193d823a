"""Configuration of the shards stage."""

from esans.config import NonNegativeInt, PositiveInt, config


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
