"""The item graph by Swing weights: users of an item meet where the item is, each with a capped history.

Shuffled: one history (max_history x 16 bytes) for each of at most max_users users of an item. Memory of a task: one Arrow batch,
and the users of one item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from esans.columns import ITEM_IDX, NEIGHBOUR_IDX, POSITION, SCORE, TIMESTAMP, USER_IDX
from esans.features.config import GraphConfig
from esans.features.swing import Rows, Swing

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_HISTORY, _TIMES = "history", "times"


def swing_graph(events: DataFrame, num_items: int, config: GraphConfig, count: Callable[[], np.ndarray], seed: int) -> DataFrame:
    """Neighbours of every item that shares two users with another.

    score = swing / ((count_i count_j)^exponent + shrinkage); exponent 0 is the published order.

    Args:
        events: train events: user_idx, item_idx, timestamp, position.
        num_items: size of the catalogue, below 2^31.
        config: caps, window, decay, debiasing and k.
        count: gives (num_items,) train events per item; called on the workers, so that no such array passes the driver.
        seed: of the draw of users where an item has more than the cap.

    Returns:
        item_idx, neighbour_idx long, score float; at most k rows an item, no item its own neighbour.
    """
    swing = Swing(num_items, config.window, config.half_life_seconds, config.swing.alpha)
    exponent, shrinkage, k = config.popularity_exponent, config.shrinkage, config.neighbours

    def strongest(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        counted: np.ndarray | None = None
        for item, neighbour, score in swing.run(map(_rows, batches)):
            counted = count() if counted is None else counted
            debiased = score / ((counted[item] * counted[neighbour]) ** exponent + shrinkage)
            kept = top(item, neighbour, debiased, k)
            columns = [pa.array(item[kept]), pa.array(neighbour[kept]), pa.array(debiased[kept].astype(np.float32))]
            yield pa.RecordBatch.from_arrays(columns, [ITEM_IDX, NEIGHBOUR_IDX, SCORE])

    return _users_of_items(events, config, seed).mapInArrow(strongest, f"{ITEM_IDX} long, {NEIGHBOUR_IDX} long, {SCORE} float")


def top(item: np.ndarray, neighbour: np.ndarray, score: np.ndarray, k: int) -> np.ndarray:
    """Places of the k highest scores of each item, ties by the lower neighbour; scores that float32 calls 0 are left out."""
    order = np.lexsort((neighbour, -score, item))
    sorted_item = item[order]
    rank = np.arange(len(order)) - np.searchsorted(sorted_item, sorted_item)
    return order[(rank < k) & (score[order].astype(np.float32) > 0)]


def _rows(batch: pa.RecordBatch) -> Rows:
    item, history, times = batch.column(0), batch.column(1), batch.column(2)
    lengths = history.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    return Rows(item.to_numpy(), lengths, history.flatten().to_numpy(), times.flatten().to_numpy())


def _users_of_items(events: DataFrame, config: GraphConfig, seed: int) -> DataFrame:
    """item_idx, history and times array<long> (distinct items of one user, the latest first), sorted by item and user."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    last = F.max(F.struct(POSITION, TIMESTAMP)).alias("last")
    taken = events.groupBy(USER_IDX, ITEM_IDX).agg(last).select(USER_IDX, ITEM_IDX, "last.*")
    latest = Window.partitionBy(USER_IDX).orderBy(F.desc(POSITION))
    capped = taken.withColumn("rank", F.row_number().over(latest)).where(F.col("rank") <= config.swing.max_history)
    drawn = Window.partitionBy(ITEM_IDX).orderBy(F.xxhash64(USER_IDX, ITEM_IDX, F.lit(seed)), USER_IDX)
    chosen = capped.select(USER_IDX, ITEM_IDX).withColumn("draw", F.row_number().over(drawn)).where(F.col("draw") <= config.swing.max_users)
    steps = F.sort_array(F.collect_list(F.struct("rank", ITEM_IDX, TIMESTAMP)))
    histories = capped.groupBy(USER_IDX).agg(steps.alias("steps"))
    histories = histories.select(USER_IDX, F.col(f"steps.{ITEM_IDX}").alias(_HISTORY), F.col(f"steps.{TIMESTAMP}").alias(_TIMES))
    met = chosen.select(USER_IDX, ITEM_IDX).join(histories, USER_IDX)
    return met.repartition(ITEM_IDX).sortWithinPartitions(ITEM_IDX, USER_IDX).select(ITEM_IDX, _HISTORY, _TIMES)
