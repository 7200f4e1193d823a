"""Encoder `landmarks`: the item graph as short vectors, by truncated singular vectors over its most popular items.

An item's row holds its neighbours' scores, at the landmarks alone. Where the catalogue has no more items than landmarks
this is the truncated SVD of the whole graph; beyond, driver and workers still hold landmarks x dim floats only, and
vectors travel along edges only to those items that have no landmark beside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from esans.columns import ITEM_IDX, NEIGHBOUR_IDX, SCORE
from esans.features.projection import COLUMNS, WEIGHTS, fit_svd, project, sample_rows, to_csr, unit_rows
from esans.features.registry import Encoded, Interactions, Job
from esans.features.vectors import VECTOR, list_array, vector_schema

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_COLUMN = "column"
# Neighbours whose vectors travel to an item that has no landmark beside it.
_BESIDE = 5


def encode(source: Interactions, config: Any, job: Job) -> Encoded:
    """Vectors of every item that has a neighbour.

    Args:
        source: the item graph and the train events it was made of.
        config: the behaviour section.
        job: session, seed, sizes.
    """
    from pyspark import StorageLevel

    settings = config.landmarks
    landmarks, width = _landmarks(source, settings.landmarks)
    if width == 0:
        return Encoded(job.spark.createDataFrame([], vector_schema()), config.dim)
    rows = _rows(source.graph, landmarks, settings.self_weight).persist(StorageLevel.DISK_ONLY)
    sample = sample_rows(rows, rows.count(), settings.max_fit_items, job.seed)
    matrix = unit_rows(to_csr(sample.column(COLUMNS).combine_chunks(), sample.column(WEIGHTS).combine_chunks(), width))
    projection, kept = fit_svd(matrix, config.dim, job.seed)
    vectors = project(rows, projection, unit_rows, weighted=True)
    if width == settings.landmarks:
        near = vectors.persist(StorageLevel.DISK_ONLY)
        vectors = near.unionByName(_beyond(source.graph, near, config.dim))
    return Encoded(vectors, config.dim, {"behaviour.svd_kept": kept, "behaviour.landmarks": float(width)})


def _landmarks(source: Interactions, bound: int) -> tuple[DataFrame, int]:
    """The most popular items of the graph, at most `bound`, numbered: neighbour_idx long, column int. They pass through the driver."""
    from pyspark.sql import functions as F

    linked = source.graph.select(ITEM_IDX).distinct()
    counts = source.events.groupBy(ITEM_IDX).count().join(linked, ITEM_IDX, "left_semi")
    chosen = counts.orderBy(F.desc("count"), ITEM_IDX).limit(bound).select(ITEM_IDX).toArrow().column(0).combine_chunks()
    items, columns = np.sort(chosen.to_numpy(zero_copy_only=False)), np.arange(len(chosen), dtype=np.int32)
    numbered = pa.table({NEIGHBOUR_IDX: pa.array(items, pa.int64()), _COLUMN: pa.array(columns)})
    return F.broadcast(source.graph.sparkSession.createDataFrame(numbered)), len(chosen)


def _rows(graph: DataFrame, landmarks: DataFrame, self_weight: float) -> DataFrame:
    """item_idx, columns array<int>, weights array<float>: scores at the landmarks, and `self_weight` times the highest at itself."""
    from pyspark.sql import functions as F

    edges = graph.select(ITEM_IDX, NEIGHBOUR_IDX, SCORE)
    if self_weight > 0:
        weight = (F.max(SCORE) * F.lit(self_weight)).cast("float").alias(SCORE)
        edges = edges.unionByName(graph.groupBy(ITEM_IDX).agg(weight).select(ITEM_IDX, F.col(ITEM_IDX).alias(NEIGHBOUR_IDX), SCORE))
    entries = edges.join(landmarks, NEIGHBOUR_IDX).groupBy(ITEM_IDX).agg(F.collect_list(F.struct(_COLUMN, SCORE)).alias("entries"))
    return entries.select(ITEM_IDX, F.col(f"entries.{_COLUMN}").alias(COLUMNS), F.col(f"entries.{SCORE}").alias(WEIGHTS))


def _beyond(graph: DataFrame, near: DataFrame, dim: int) -> DataFrame:
    """Vectors of items without a landmark neighbour: the weighted sum over the strongest of their neighbours that have a vector."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    far = graph.join(near.select(ITEM_IDX), ITEM_IDX, "left_anti").join(near.select(F.col(ITEM_IDX).alias(NEIGHBOUR_IDX)), NEIGHBOUR_IDX)
    # Ranked before vectors travel: what a few strong neighbours say, fifty say no better, and each brings a whole vector.
    strongest = Window.partitionBy(ITEM_IDX).orderBy(F.desc(SCORE), NEIGHBOUR_IDX)
    far = far.withColumn("place", F.row_number().over(strongest)).where(F.col("place") <= _BESIDE).drop("place")
    known = near.select(F.col(ITEM_IDX).alias(NEIGHBOUR_IDX), VECTOR)
    # Sorted, so that sums do not depend on the order in which rows arrive.
    neighbours = F.array_sort(F.collect_list(F.struct(NEIGHBOUR_IDX, SCORE, VECTOR)))
    beside = far.join(known, NEIGHBOUR_IDX).groupBy(ITEM_IDX).agg(neighbours.alias("beside"))
    flat = beside.select(ITEM_IDX, F.col(f"beside.{SCORE}").alias(WEIGHTS), F.flatten(f"beside.{VECTOR}").alias(VECTOR))

    def add_up(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            lengths = batch.column(1).value_lengths().to_numpy(zero_copy_only=False)
            weighted = batch.column(2).flatten().to_numpy().reshape(-1, dim) * batch.column(1).flatten().to_numpy()[:, None]
            start = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
            total = np.add.reduceat(weighted, start, axis=0) if len(lengths) else np.zeros((0, dim))
            vectors = list_array(total.astype(np.float32), np.ones(len(lengths), bool))
            yield pa.RecordBatch.from_arrays([batch.column(0), vectors], [ITEM_IDX, VECTOR])

    return flat.mapInArrow(add_up, vector_schema())
