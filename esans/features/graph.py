"""The item graph: decayed co-occurrence in capped train histories, debiased by popularity, top-k neighbours per item.

No step is quadratic in anything but the cap: a user adds at most max_history x window pairs, pairs are summed where they
are found, and each is shuffled once, to where all pairs of its item meet and the top-k is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from esans.columns import ITEM_IDX, NEIGHBOUR_IDX, POSITION, SCORE, SPLIT, TIMESTAMP, TRAIN, USER_IDX
from esans.features.config import GraphConfig
from esans.features.neighbours import PAIR_BYTES, Strongest, pack
from esans.features.pairs import PairCounter

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_ROWS_PER_BATCH = 65_536
_PACKS_PER_BATCH = 64
# Packs that one task may meet at most; Python holds a few times as much.
_BYTES_PER_TASK = 64 * 2**20
_MAX_BUCKETS = 1 << 16


def train_events(interactions: DataFrame) -> DataFrame:
    """The rows that behaviour may see: the train split, nothing else (METHOD 1)."""
    from pyspark.sql import functions as F

    return interactions.where(F.col(SPLIT) == TRAIN).select(USER_IDX, ITEM_IDX, TIMESTAMP, POSITION)


def weigh(events: DataFrame, num_items: int, config: GraphConfig, count: Callable[[], np.ndarray], seed: int) -> DataFrame:
    """The graph that the config asks for: item_idx, neighbour_idx long, score float. Arguments as for `item_graph`."""
    if config.weight == "swing":
        from esans.features.swing_graph import swing_graph

        return swing_graph(events, num_items, config, count, seed)
    return item_graph(events, num_items, config, count)


def item_graph(events: DataFrame, num_items: int, config: GraphConfig, count: Callable[[], np.ndarray]) -> DataFrame:
    """Neighbours of every item that shares a window with another.

    score = sum of 2^(-days apart / half life) / ((count_i count_j)^exponent + shrinkage)

    Args:
        events: train events: user_idx, item_idx, timestamp, position.
        num_items: size of the catalogue, below 2^31.
        config: cap, window, decay, debiasing and k.
        count: gives (num_items,) train events per item; called on the workers, so that no such array passes the driver.

    Returns:
        item_idx, neighbour_idx long, score float; at most k rows an item, no item its own neighbour.
    """
    partitions = _partitions(events.count(), config)
    packs = _packs(events, num_items, config, min(4 * partitions, _MAX_BUCKETS)).repartition(partitions, "bucket")

    def strongest(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        first = next(batches, None)
        if first is None:
            return
        found = Strongest(num_items, count(), config.popularity_exponent, config.shrinkage, config.neighbours)
        columns = found.run(packed.as_py() for batch in chain([first], batches) for packed in batch.column(1))
        for start in range(0, len(columns[0]), _ROWS_PER_BATCH):
            part = [pa.array(column[start : start + _ROWS_PER_BATCH]) for column in columns]
            yield pa.RecordBatch.from_arrays(part, [ITEM_IDX, NEIGHBOUR_IDX, SCORE])

    return packs.mapInArrow(strongest, f"{ITEM_IDX} long, {NEIGHBOUR_IDX} long, {SCORE} float")


def _partitions(events: int, config: GraphConfig) -> int:
    # Each event meets at most `window` others, in both directions.
    return max(2, -(-events * config.window * 2 * PAIR_BYTES // _BYTES_PER_TASK))


def _packs(events: DataFrame, num_items: int, config: GraphConfig, buckets: int) -> DataFrame:
    """Pairs with repeats added up per worker, in both directions: bucket int (of the first item), pairs binary."""
    cap, window, half_life = config.max_history, config.window, config.half_life_seconds

    def count(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        counter = PairCounter(num_items, cap, window, half_life)
        pieces = (tuple(batch.column(place).to_numpy(zero_copy_only=False) for place in range(3)) for batch in batches)
        for left, right, weight in counter.run(pieces):
            found = list(pack(left, right, weight, buckets))
            for start in range(0, len(found), _PACKS_PER_BATCH):
                bucket, packs = zip(*found[start : start + _PACKS_PER_BATCH], strict=True)
                yield pa.RecordBatch.from_arrays([pa.array(bucket, pa.int32()), pa.array(packs, pa.binary())], ["bucket", "pairs"])

    # A user's rows arrive together, the latest first, so one pass over the stream sees every pair.
    ordered = events.repartition(USER_IDX).sortWithinPartitions(USER_IDX, POSITION, ascending=[True, False])
    return ordered.select(USER_IDX, ITEM_IDX, TIMESTAMP).mapInArrow(count, "bucket int, pairs binary")
