"""Codes of all items in Spark, with the codebooks broadcast; sizes come back, items never do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from esans.cluster.scan import Source, mean_of
from esans.codebooks.codebook import Codebooks, Primaries
from esans.columns import ITEM_IDX, PRIMARY, SECONDARY, UNASSIGNED

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def count_primaries(spark: SparkSession, source: Source, book: Primaries, batch_rows: int) -> np.ndarray:
    """(K1,) int64 sizes over all items, summed on the executors."""
    shared = spark.sparkContext.broadcast((source, book))

    def count(units: Iterator[int]) -> Iterator[np.ndarray]:
        source, book = shared.value
        sizes = np.zeros(len(book), np.int64)
        for unit in units:
            for item, vectors in source.read(unit):
                sizes += np.bincount(book.assign(item, mean_of(vectors), batch_rows), minlength=len(sizes))
        yield sizes

    sizes: np.ndarray = source.parallel(spark).mapPartitions(count).treeReduce(np.add)
    shared.unpersist()
    return sizes


def assign_codes(spark: SparkSession, source: Source, books: Codebooks, num_items: int, batch_rows: int) -> DataFrame:
    """item_idx, c1, c2 of every item of the catalogue; UNASSIGNED twice where an item has no vector."""
    shared = spark.sparkContext.broadcast((source, books))

    def assign(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        source, books = shared.value
        for unit in (unit for batch in batches for unit in batch.column(0).to_pylist()):
            parts = [(item, *books.assign(item, vectors, mean_of(vectors), batch_rows)) for item, vectors in source.read(unit)]
            columns = [pa.array(np.concatenate(column)) for column in zip(*parts, strict=True)]
            yield pa.RecordBatch.from_arrays(columns, [ITEM_IDX, PRIMARY, SECONDARY])

    codes = source.numbers(spark).mapInArrow(assign, f"{ITEM_IDX} long, {PRIMARY} int, {SECONDARY} int")
    return every_item(spark, codes, source.rows, num_items)


def every_item(spark: SparkSession, codes: DataFrame, rows: int, num_items: int) -> DataFrame:
    """Codes of `rows` items, and UNASSIGNED for the rest of the catalogue."""
    from pyspark.sql import functions as F

    if rows == num_items:
        return codes
    missing = F.lit(UNASSIGNED)
    return (
        spark.range(num_items)
        .toDF(ITEM_IDX)
        .join(codes, ITEM_IDX, "left")
        .select(ITEM_IDX, F.coalesce(PRIMARY, missing).alias(PRIMARY), F.coalesce(SECONDARY, missing).alias(SECONDARY))
    )
