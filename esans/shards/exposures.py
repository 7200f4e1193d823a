"""What each example's user was last shown before the positive, and did not choose."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import Window
from pyspark.sql import functions as F

from esans import columns as c
from esans.errors import ConfigError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from esans.bundle import Bundle

# Shops show the same item again and again: so many events are looked through for each distinct item that is wanted.
_LOOK_BACK = 4


def exposures_of(prepared: Bundle, spark: SparkSession) -> DataFrame:
    """The exposures that prepare kept. Raises ConfigError where it kept none."""
    if not prepared.has("exposures"):
        raise ConfigError("shards.exposures needs events that only showed an item: name their types in prepare.events.exposures.")
    return prepared.table("exposures").spark(spark)


def exposed_before(exposures: DataFrame, train: DataFrame, count: int) -> DataFrame:
    """Rows user_idx, timestamp, exposed: what a positive of that user at that time may have as negatives.

    Strictly before the time and never a train positive of the user, whenever that was. Positives of validation and test are not looked
    at: they would leak. Each exposure carries a bounded window, and each positive takes that of the last exposure before it.

    Args:
        exposures: user_idx, item_idx, timestamp.
        train: positives of the train split.
        count: most items of an example.

    Returns:
        Distinct pairs of user and time of `train`; exposed is an array<int> of `count` distinct items, the latest last,
        padded at the left.
    """
    shown = exposures.join(train.select(c.USER_IDX, c.ITEM_IDX).distinct(), [c.USER_IDX, c.ITEM_IDX], "left_anti")
    # Items shown at one moment have no order; a hash keeps the result the same without favouring low ids.
    tie = F.xxhash64(c.USER_IDX, c.ITEM_IDX, c.TIMESTAMP)
    by_time = Window.partitionBy(c.USER_IDX).orderBy(c.TIMESTAMP, "tie").rowsBetween(1 - _LOOK_BACK * count, 0)
    latest_first = F.array_distinct(F.reverse(F.collect_list(F.col(c.ITEM_IDX).cast("int")).over(by_time)))
    shown = shown.withColumn("tie", tie).select(c.USER_IDX, c.TIMESTAMP, "tie", F.slice(latest_first, 1, count).alias(c.EXPOSED))
    asked = train.select(c.USER_IDX, c.TIMESTAMP).distinct().withColumn("asked", F.lit(True))
    both = shown.withColumn("asked", F.lit(False)).unionByName(asked, allowMissingColumns=True)
    # At one time the question comes first, so that it can't see what was shown at that very time.
    before = Window.partitionBy(c.USER_IDX).orderBy(c.TIMESTAMP, F.desc("asked"), "tie").rowsBetween(Window.unboundedPreceding, -1)
    found = both.withColumn(c.EXPOSED, F.last(c.EXPOSED, ignorenulls=True).over(before)).where("asked")
    items = F.reverse(F.coalesce(F.col(c.EXPOSED), F.array().cast("array<int>")))
    padding = F.array_repeat(F.lit(c.PADDING).cast("int"), F.lit(count) - F.size(items))
    return found.select(c.USER_IDX, c.TIMESTAMP, F.concat(padding, items).alias(c.EXPOSED))


def mean_exposures(examples: DataFrame) -> float:
    """Exposures of an example on average, padding left out."""
    live = F.size(F.array_remove(c.EXPOSED, c.PADDING))
    return float(examples.agg(F.mean(live)).collect()[0][0])
