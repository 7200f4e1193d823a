"""The item graph: decayed co-occurrence in capped train histories, debiased by popularity, top-k neighbours per item.

No step is quadratic in anything but the cap: a user adds at most max_history x window pairs, pairs are summed where they
are found and then by Spark, and the top-k is a grouped limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from esans.columns import ITEM_IDX, NEIGHBOUR_IDX, POSITION, SCORE, SPLIT, TIMESTAMP, TRAIN, USER_IDX
from esans.features.config import GraphConfig
from esans.features.pairs import UNIT, PairCounter

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_DAY = 86_400.0
_ROWS_PER_BATCH = 65_536


def train_events(interactions: DataFrame) -> DataFrame:
    """The rows that behaviour may see: the train split, nothing else (METHOD 1)."""
    from pyspark.sql import functions as F

    return interactions.where(F.col(SPLIT) == TRAIN).select(USER_IDX, ITEM_IDX, TIMESTAMP, POSITION)


def item_graph(events: DataFrame, num_items: int, config: GraphConfig) -> DataFrame:
    """Neighbours of every item that shares a window with another.

    score = sum of 2^(-days apart / half life) / ((count_i count_j)^exponent + shrinkage)

    Args:
        events: train events: user_idx, item_idx, timestamp, position.
        num_items: size of the catalogue.
        config: cap, window, decay, debiasing and k.

    Returns:
        item_idx, neighbour_idx long, score float; at most k rows an item, no item its own neighbour.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    pairs = _pairs(events, num_items, config).groupBy("a", "b").agg(F.sum("weight").alias("weight"))
    count = events.groupBy(ITEM_IDX).agg(F.count(F.lit(1)).cast("double").alias("count"))
    scored = pairs.join(count.toDF("a", "count_a"), "a").join(count.toDF("b", "count_b"), "b")
    divisor = F.pow(F.col("count_a") * F.col("count_b"), F.lit(config.popularity_exponent)) + F.lit(config.shrinkage)
    scored = scored.select("a", "b", (F.col("weight") / F.lit(float(UNIT)) / divisor).cast("float").alias(SCORE))
    to_and_fro = [F.struct(F.col(i).alias("i"), F.col(j).alias("j")) for i, j in (("a", "b"), ("b", "a"))]
    edges = scored.select(F.explode(F.array(*to_and_fro)).alias("edge"), SCORE)
    both = edges.select(F.col("edge.i").alias(ITEM_IDX), F.col("edge.j").alias(NEIGHBOUR_IDX), SCORE)
    strongest = Window.partitionBy(ITEM_IDX).orderBy(F.desc(SCORE), NEIGHBOUR_IDX)
    return both.withColumn("rank", F.row_number().over(strongest)).where(F.col("rank") <= config.neighbours).drop("rank")


def _pairs(events: DataFrame, num_items: int, config: GraphConfig) -> DataFrame:
    """Pairs with repeats added up per worker: a < b long, weight long."""
    half_life = None if config.half_life_days is None else config.half_life_days * _DAY
    cap, window = config.max_history, config.window

    def count(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        counter = PairCounter(num_items, cap, window, half_life)
        pieces = (tuple(batch.column(place).to_numpy(zero_copy_only=False) for place in range(3)) for batch in batches)
        for left, right, weight in counter.run(pieces):
            for start in range(0, len(left), _ROWS_PER_BATCH):
                part = slice(start, start + _ROWS_PER_BATCH)
                columns = [pa.array(column[part].astype(np.int64)) for column in (left, right, weight)]
                yield pa.RecordBatch.from_arrays(columns, ["a", "b", "weight"])

    # A user's rows arrive together, the latest first, so one pass over the stream sees every pair.
    ordered = events.repartition(USER_IDX).sortWithinPartitions(USER_IDX, POSITION, ascending=[True, False])
    return ordered.select(USER_IDX, ITEM_IDX, TIMESTAMP).mapInArrow(count, "a long, b long, weight long")
