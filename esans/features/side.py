"""Side columns of items as small integer codes; code 0 is missing or unknown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from esans.columns import ITEM_IDX, SIDE_PREFIX
from esans.features.config import SideConfig

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

CATEGORY, NUMBER = "category", "number"
_ACCURACY = 10_000


def side_codes(items: DataFrame, kinds: Mapping[str, str], config: SideConfig) -> tuple[DataFrame, dict[str, int]]:
    """Codes of every side column.

    Args:
        items: item_idx and one `side_<name>` column per entry of `kinds`.
        kinds: name -> `category` or `number`.
        config: bounds.

    Returns:
        item_idx and one int column `side_<name>` each, and name -> cardinality (codes lie in [0, cardinality)).
    """
    codes, cardinality = items.select(ITEM_IDX, *[SIDE_PREFIX + name for name in kinds]), {}
    for name, kind in kinds.items():
        encode = _categories if kind == CATEGORY else _numbers
        codes, cardinality[name] = encode(codes, SIDE_PREFIX + name, config)
    return codes.select(ITEM_IDX, *[SIDE_PREFIX + name for name in kinds]), cardinality


def _categories(items: DataFrame, column: str, config: SideConfig) -> tuple[DataFrame, int]:
    """1 is the commonest value; at most max_categories values pass through the driver."""
    from pyspark.sql import functions as F

    counted = items.where(F.col(column).isNotNull()).groupBy(column).count()
    known = [row[column] for row in counted.orderBy(F.desc("count"), column).limit(config.max_categories).select(column).collect()]
    table = items.sparkSession.createDataFrame([(value, code) for code, value in enumerate(known, 1)], f"`{column}` string, code int")
    joined = items.join(F.broadcast(table), column, "left").withColumn(column, F.coalesce("code", F.lit(0)).cast("int")).drop("code")
    return joined, len(known) + 1


def _numbers(items: DataFrame, column: str, config: SideConfig) -> tuple[DataFrame, int]:
    """Bucket by approximate quantiles (1 is the lowest); equal quantiles make one bucket."""
    from pyspark.sql import functions as F

    finite = F.col(column).isNotNull() & ~F.isnan(column) & (F.abs(column) < F.lit(float("inf")))
    shares = [place / config.buckets for place in range(1, config.buckets)]
    row = items.where(finite).agg(F.percentile_approx(column, shares, _ACCURACY).alias("edges")).first()
    edges = sorted(set(row["edges"] or [])) if row else []
    return items.withColumn(column, F.when(finite, _bucket(column, edges)).otherwise(F.lit(0)).cast("int")), len(edges) + 2


def _bucket(column: str, edges: list[float]) -> Column:
    from pyspark.sql import functions as F

    at_or_above = F.filter(F.array(*[F.lit(float(edge)) for edge in edges]), lambda edge: edge <= F.col(column)) if edges else F.array()
    return F.size(at_or_above) + 1
