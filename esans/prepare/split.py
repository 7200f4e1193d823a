"""Train, validation and test by time, per user or at two moments; and which rows are targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from esans import columns as C
from esans.prepare.config import SplitConfig, is_share, seconds

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

IS_TARGET = "is_target"
PART = "part"  # int: 0 train, 1 validation, 2 test
_BUCKETS = 16_384
_DAY = 86_400


def with_ties(positives: DataFrame, seed: int) -> DataFrame:
    """Add the hashes `tie`, which orders rows of one user and one time, and `order_tie`, which orders baskets of one time.

    Item ids must not do that: catalogues number related or popular items together, and a leave-last-out split that breaks
    ties by id inherits that order (popularity Recall@10 on online_retail 0.068 instead of 0.035). The hashes are taken of the
    outside ids, so they stay what they are however the ids are numbered.
    """
    from pyspark.sql import functions as F

    tie = F.xxhash64(C.USER_ID, C.ITEM_ID, C.TIMESTAMP, F.lit(seed))
    return positives.withColumn("tie", tie).withColumn("order_tie", F.xxhash64(C.USER_ID, C.ORDER_ID, F.lit(seed)))


def split(
    rows: DataFrame, config: SplitConfig, deduplicate: str, moments: DataFrame | None = None, until: float | None = None
) -> DataFrame:
    """Deduplicated positives with their part, place and role.

    Whatever the method: a user's train rows come before the validation rows, and those before the test rows; a row is a
    target when its user qualifies and the user had nothing to do with the item in an earlier part.

    Args:
        rows: user_idx, item_idx, timestamp, event, order_id, weight, and the ties of `with_ties`.
        config: method and minimum counts.
        deduplicate: first, last or none.
        moments: the timestamps of `rows` where they can be had for less; global_time reads them several times.
        until: unix seconds at which last_days ends; None ends it with the UTC day of the latest row.

    Returns:
        The same columns without ties, and position (int, 0 .. n - 1 in the user's time order), part (int), split, is_target (boolean).
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    rows = _ranked_baskets(rows) if config.method == "last_basket" else rows.withColumn("rank", F.lit(0))
    if config.method == "last_out":
        rows = _one_per_pair(rows, deduplicate)
    pair = Window.partitionBy(C.USER_IDX, C.ITEM_IDX)
    rows = rows.withColumn("new", F.row_number().over(pair.orderBy(*_order())) == 1)
    user = Window.partitionBy(C.USER_IDX)
    rows = rows.withColumns({"items": _count_new().over(user), "orders": F.max("rank").over(user)})
    if config.method in ("global_time", "last_days"):
        rows = _global_time(rows, config, cut_times(rows if moments is None else moments, config, until))
    else:
        rows = {"last_out": _last_out, "last_basket": _last_basket}[config.method](rows, config)
    rows = rows.withColumn(IS_TARGET, F.col("qualified") & (F.col(PART) > 0) & F.col("new"))
    rows = _one_per_part(rows, deduplicate)
    position = F.row_number().over(Window.partitionBy(C.USER_IDX).orderBy(*_order())) - 1
    names = F.array(*[F.lit(name) for name in C.SPLITS])
    rows = rows.withColumn(C.POSITION, position.cast("int")).withColumn(C.SPLIT, F.element_at(names, F.col(PART) + 1))
    return rows.select(C.USER_IDX, C.ITEM_IDX, C.TIMESTAMP, C.EVENT, C.ORDER_ID, C.WEIGHT, C.POSITION, PART, C.SPLIT, IS_TARGET)


def _order() -> list[str]:
    # The tie hash cannot tell two rows of one item at one time apart; what is left orders them the same way every time.
    return ["rank", C.TIMESTAMP, "tie", C.ORDER_ID, C.EVENT, C.WEIGHT]


def _count_new() -> Column:
    from pyspark.sql import functions as F

    return F.sum(F.col("new").cast("int"))


def _one_per_pair(rows: DataFrame, deduplicate: str) -> DataFrame:
    # last_out takes the user's sequence as it is after deduplication
    from pyspark.sql import functions as F

    if deduplicate == "none":
        return rows
    order = F.struct(*_order())
    kept = F.min(order) if deduplicate == "first" else F.max(order)
    return rows.groupBy(C.USER_IDX, C.ITEM_IDX).agg(kept.alias("kept")).select(C.USER_IDX, C.ITEM_IDX, "kept.*")


def _one_per_part(rows: DataFrame, deduplicate: str) -> DataFrame:
    # `last` within a part only: a purchase that a later one replaces must not vanish from train, or its absence tells the future.
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    if deduplicate == "none":
        return rows
    if deduplicate == "first":
        return rows.where("new")
    part = Window.partitionBy(C.USER_IDX, C.ITEM_IDX, PART)
    rows = rows.withColumn(IS_TARGET, F.max(IS_TARGET).over(part))
    return rows.withColumn("place", F.row_number().over(part.orderBy(*[F.desc(name) for name in _order()]))).where("place = 1")


def _ranked_baskets(rows: DataFrame) -> DataFrame:
    # rank 1, 2, ... of a user's orders by their first moment, ties by a hash of the order
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    rows = rows.withColumn("start", F.min(C.TIMESTAMP).over(Window.partitionBy(C.USER_IDX, C.ORDER_ID)))
    order = Window.partitionBy(C.USER_IDX).orderBy("start", "order_tie", C.ORDER_ID)
    return rows.withColumn("rank", F.dense_rank().over(order))


def _last_out(rows: DataFrame, config: SplitConfig) -> DataFrame:
    """The last new item of a user opens the test, the one before it the validation (leave-last-out)."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    so_far = Window.partitionBy(C.USER_IDX).orderBy(*_order()).rowsBetween(Window.unboundedPreceding, Window.currentRow)
    rows = rows.withColumn("left", F.col("items") - _count_new().over(so_far))
    return _last_two(rows, F.col("items") >= max(3, config.min_items))


def _last_basket(rows: DataFrame, config: SplitConfig) -> DataFrame:
    """The last order of a user is the test, the last but one the validation."""
    from pyspark.sql import functions as F

    rows = rows.withColumn("left", F.col("orders") - F.col("rank"))
    return _last_two(rows, (F.col("orders") >= config.min_baskets) & (F.col("items") >= config.min_items))


def _last_two(rows: DataFrame, qualified: Column) -> DataFrame:
    # `left`: how many new items (orders) of the user come after this one
    from pyspark.sql import functions as F

    part = F.when(qualified & (F.col("left") == 0), 2).when(qualified & (F.col("left") == 1), 1).otherwise(0)
    return rows.withColumns({"qualified": qualified, PART: part})


def _global_time(rows: DataFrame, config: SplitConfig, cuts: tuple[int, int]) -> DataFrame:
    """Everything from one moment on is validation, from another on test, whoever the user is."""
    from pyspark.sql import functions as F

    validation, test = cuts
    part = F.when(F.col(C.TIMESTAMP) >= test, 2).when(F.col(C.TIMESTAMP) >= validation, 1).otherwise(0)
    return rows.withColumns({"qualified": F.col("items") >= config.min_items, PART: part})


def cut_times(rows: DataFrame, config: SplitConfig, until: float | None = None) -> tuple[int, int]:
    """Unix seconds at which validation and test start under global_time and last_days; shares and the last day come from the data."""
    from pyspark.sql import functions as F

    if config.method == "last_days":
        latest = 0 if until is not None else rows.agg(F.max(C.TIMESTAMP)).collect()[0][0]
        end = (latest // _DAY + 1) * _DAY if until is None else -int(-until // 1)
        test = end - config.test_days * _DAY
        return test - config.validation_days * _DAY, test
    cuts: list[Any] = [config.validation_from, config.test_from]
    if is_share(config.validation_from):
        low, high, total = rows.agg(F.min(C.TIMESTAMP), F.max(C.TIMESTAMP), F.count(F.lit(1))).collect()[0]
        return tuple(_moment(rows, min(total - 1, int(total * cut)), low, high) for cut in cuts)  # type: ignore[return-value]
    return tuple(-int(-seconds(cut, "cut") // 1) for cut in cuts)  # type: ignore[return-value]


def _moment(rows: DataFrame, rank: int, low: int, high: int) -> int:
    """Timestamp of the row at `rank` (from 0) in time order, exactly, by narrowing an interval: 16,384 counts a pass reach the driver."""
    from pyspark.sql import functions as F

    before = 0
    while low < high:
        width = -(-(high - low + 1) // _BUCKETS)
        bucket = F.floor((F.col(C.TIMESTAMP) - low) / width)
        inside = rows.where(F.col(C.TIMESTAMP).between(low, high)).groupBy(bucket.alias("bucket")).count().collect()
        for row in sorted(inside, key=lambda row: row["bucket"]):
            if before + row["count"] > rank:
                low, high = low + row["bucket"] * width, min(high, low + (row["bucket"] + 1) * width - 1)
                break
            before += row["count"]
    return int(low)
