"""One training example per train positive: what the user did before it, and what must never be its negative."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import Window
from pyspark.sql import functions as F

from esans import columns as c
from esans.errors import ConfigError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

    from esans.bundle import Bundle
    from esans.shards.config import ShardsConfig

_ORDER_NUMBER = "order_number"


def train_positives(prepared: Bundle, spark: SparkSession, config: ShardsConfig) -> DataFrame:
    """Positives of the train split, with the running number of their order where orders are looked at.

    Raises:
        ConfigError: `exclude_same_order` without an order column.
    """
    table = prepared.table("interactions").spark(spark).where(F.col(c.SPLIT) == c.TRAIN)
    if not config.exclude_same_order:
        return table.withColumn(_ORDER_NUMBER, F.lit(0))
    if c.ORDER_ID not in table.columns:
        raise ConfigError("shards.exclude_same_order = true needs an order column: set prepare.interactions.columns.order_id.")
    # Orders of one user may interleave in time; the first event of an order gives its place.
    starts = Window.partitionBy(c.USER_IDX, c.ORDER_ID)
    numbered = table.withColumn("order_start", F.min(c.POSITION).over(starts))
    by_start = Window.partitionBy(c.USER_IDX).orderBy("order_start")
    return numbered.withColumn(_ORDER_NUMBER, F.dense_rank().over(by_start)).drop("order_start")


def known_positives(train: DataFrame) -> DataFrame:
    """The last KNOWN_SIZE distinct train positives of each user, ascending, so that membership is a binary search (METHOD 3)."""
    events = train.groupBy(c.USER_IDX, c.ITEM_IDX).agg(F.max(c.POSITION).alias(c.POSITION))
    events = events.select(c.USER_IDX, F.struct(F.col(c.POSITION), F.col(c.ITEM_IDX).cast("int").alias(c.ITEM_IDX)).alias("event"))
    latest = F.slice(F.sort_array(F.collect_list("event"), asc=False), 1, c.KNOWN_SIZE)
    return events.groupBy(c.USER_IDX).agg(F.sort_array(_pad(latest[c.ITEM_IDX], c.KNOWN_SIZE)).alias(c.KNOWN))


def build_examples(train: DataFrame, known: DataFrame, config: ShardsConfig) -> DataFrame:
    """Rows of the `examples` table.

    The window over a user's earlier positives is bounded by `history_length`, so a user with a million events costs
    a million bounded windows, not a square.
    """
    earlier = Window.partitionBy(c.USER_IDX).orderBy(c.POSITION)
    if config.exclude_same_order:
        frame = earlier.rowsBetween(-(config.history_length + config.largest_order), -1)
        seen = F.collect_list(F.struct(c.ITEM_IDX, _ORDER_NUMBER)).over(frame)
        train = train.withColumn("seen", seen)
        history = F.expr(f"transform(filter(seen, e -> e.{_ORDER_NUMBER} < {_ORDER_NUMBER}), e -> cast(e.{c.ITEM_IDX} as int))")
        train = train.withColumn("window", history).drop("seen")
        start = F.greatest(F.size("window") - config.history_length + 1, F.lit(1))
        train = train.withColumn("window", F.slice("window", start, config.history_length))
    else:
        frame = earlier.rowsBetween(-config.history_length, -1)
        train = train.withColumn("window", F.collect_list(F.col(c.ITEM_IDX).cast("int")).over(frame))
    examples = train.where(F.size("window") >= config.min_history).join(known, c.USER_IDX)
    return examples.select(
        c.USER_IDX,
        F.col(c.ITEM_IDX).alias(c.TARGET),
        _pad(F.col("window"), config.history_length).alias(c.HISTORY),
        c.TIMESTAMP,
        F.col(c.WEIGHT).cast("float").alias(c.WEIGHT),
        c.KNOWN,
    )


def _pad(items: Column, length: int) -> Column:
    """Left-pad an int array with PADDING up to `length`."""
    padding = F.array_repeat(F.lit(c.PADDING).cast("int"), F.lit(length) - F.size(items))
    return F.concat(padding, items)


def count_targets(examples: DataFrame) -> DataFrame:
    """How often each item is the positive of an example: the draw probabilities of in-batch negatives."""
    return examples.groupBy(F.col(c.TARGET).alias(c.ITEM_IDX)).agg(F.count("*").alias(c.COUNT))
