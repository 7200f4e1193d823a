"""Append-only id maps: outside ids to dense indices, never renumbered (contract 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

# Ids are numbered bucket by bucket, so that no single task sorts all of them. Part of the result: raise code_version with it.
BUCKETS = 1024


def number(ids: DataFrame, id_column: str, index_column: str, previous: DataFrame | None = None, start: int = 0) -> tuple[DataFrame, int]:
    """Give each id an index: the one it had before, or the next free one.

    New ids are ordered by (hash bucket, id): the same set of ids gets the same indices however it is partitioned, and
    only BUCKETS counts reach the driver.

    Args:
        ids: a string column `id_column`, distinct, without nulls.
        previous: (id_column, index_column) of the earlier map, with indices 0 .. start - 1.
        start: size of the earlier map.

    Returns:
        (id_column, index_column) of all ids, old ones that are gone included, and their number.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    spark = ids.sparkSession
    fresh = ids.select(id_column) if previous is None else ids.select(id_column).join(previous, id_column, "left_anti")
    fresh = fresh.withColumn("bucket", F.pmod(F.xxhash64(id_column), F.lit(BUCKETS)).cast("int"))
    counts = {row["bucket"]: row["count"] for row in fresh.groupBy("bucket").count().collect()}
    offsets, total = [], start
    for bucket in sorted(counts):
        offsets.append((bucket, total))
        total += counts[bucket]
    if not offsets:
        assert previous is not None, "no ids to number"
        return previous.select(id_column, index_column), start
    place = Window.partitionBy("bucket").orderBy(id_column)
    numbered = (
        fresh.withColumn("rank", F.row_number().over(place) - 1)
        .join(F.broadcast(spark.createDataFrame(offsets, "bucket int, offset long")), "bucket")
        .select(id_column, (F.col("offset") + F.col("rank")).alias(index_column))
    )
    return (numbered if previous is None else previous.select(id_column, index_column).unionByName(numbered)), total


def digest(ids: DataFrame, id_column: str, index_column: str) -> str:
    """16 hexadecimal digits that say which ids have which indices, in whatever order and partitions the map lies."""
    from pyspark.sql import functions as F

    (found,) = ids.agg(F.bit_xor(F.xxhash64(id_column, index_column))).collect()[0]
    return f"{(found or 0) & (2**64 - 1):016x}"


def chain(own: dict[str, Any], earlier: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every state that the id maps of a bundle have grown through, the latest last.

    Args:
        own: items, users and digests of both maps.
        earlier: facts of the bundle that they were grown from; empty where they were numbered anew.
    """
    before = list(earlier.get("id_maps", []))
    return before if before[-1:] == [own] else [*before, own]
