"""Codes of all items in Spark, with the codebooks broadcast; sizes come back, items never do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from esans.cluster.repair import Sample
from esans.codebooks.codebook import Codebooks, Primaries
from esans.columns import ITEM_IDX, MEAN, PRIMARY, SECONDARY, UNASSIGNED

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_SAMPLE_STEPS = 1_000_000


def rows_of(column: pa.Array) -> np.ndarray:
    """A list column without nulls, of equal lengths, as (n, d) float32."""
    width = len(column[0]) if len(column) else 0
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), width)


def draw_sample(vectors: DataFrame, modalities: Sequence[str], total: int, bound: int, seed: int) -> Sample:
    """About `bound` of `total` items, chosen by a hash of item_idx and in its order: the same ones however Spark splits the data."""
    from pyspark.sql import functions as F

    if total > bound:
        share = max(int(bound / total * _SAMPLE_STEPS), 1)
        vectors = vectors.where(F.pmod(F.xxhash64(ITEM_IDX, F.lit(seed)), F.lit(_SAMPLE_STEPS)) < share)
    table = vectors.select(ITEM_IDX, *modalities, MEAN).toArrow().sort_by(ITEM_IDX).combine_chunks()
    columns = [rows_of(table.column(name).combine_chunks()) for name in (*modalities, MEAN)]
    return Sample(table.column(ITEM_IDX).to_numpy(), np.stack(columns[:-1], axis=1), columns[-1])


def count_primaries(vectors: DataFrame, book: Primaries, batch_rows: int) -> np.ndarray:
    """(K1,) int64 sizes over all items; K1 numbers a batch travel, K1 reach the driver."""
    from pyspark.sql import functions as F

    shared = vectors.sparkSession.sparkContext.broadcast(book)

    def count(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        sizes = np.zeros(len(shared.value), np.int64)
        for batch in batches:
            c1 = shared.value.assign(batch.column(0).to_numpy(), rows_of(batch.column(1)), batch_rows)
            sizes += np.bincount(c1, minlength=len(sizes))
        yield pa.RecordBatch.from_arrays([pa.array(np.arange(len(sizes), dtype=np.int32)), pa.array(sizes)], [PRIMARY, "count"])

    counted = vectors.select(ITEM_IDX, MEAN).mapInArrow(count, f"{PRIMARY} int, count long")
    found = counted.groupBy(PRIMARY).agg(F.sum("count").alias("count")).toArrow()
    shared.unpersist()
    sizes = np.zeros(len(book), np.int64)
    sizes[found.column(PRIMARY).to_numpy()] = found.column("count").to_numpy()
    return sizes


def assign_codes(vectors: DataFrame, modalities: Sequence[str], books: Codebooks, num_items: int, batch_rows: int) -> DataFrame:
    """item_idx, c1, c2 of every item of the catalogue; UNASSIGNED twice where an item has no vector."""
    from pyspark.sql import functions as F

    shared = vectors.sparkSession.sparkContext.broadcast(books)
    last = len(modalities) + 1

    def assign(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if not batch.num_rows:
                continue
            item = batch.column(0).to_numpy()
            stacked = np.stack([rows_of(batch.column(place)) for place in range(1, last)], axis=1)
            c1, c2 = shared.value.assign(item, stacked, rows_of(batch.column(last)), batch_rows)
            yield pa.RecordBatch.from_arrays([pa.array(item), pa.array(c1), pa.array(c2)], [ITEM_IDX, PRIMARY, SECONDARY])

    codes = vectors.select(ITEM_IDX, *modalities, MEAN).mapInArrow(assign, f"{ITEM_IDX} long, {PRIMARY} int, {SECONDARY} int")
    every = vectors.sparkSession.range(num_items).toDF(ITEM_IDX)
    missing = F.lit(UNASSIGNED)
    return every.join(codes, ITEM_IDX, "left").select(
        ITEM_IDX, F.coalesce(PRIMARY, missing).alias(PRIMARY), F.coalesce(SECONDARY, missing).alias(SECONDARY)
    )
