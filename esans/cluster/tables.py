"""The tables that samplers draw from (METHOD 2): CSR members, cells with fallbacks, codebooks, transitions.

Everything here but `members` holds K1 x K2 numbers at most, and lives on the driver.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from esans.codebooks.codebook import Primaries
from esans.columns import CENTROID, COUNT, FALLBACK, ITEM_IDX, OFFSET, POSITION, PRIMARY, PROBABILITIES, SECONDARY, UNASSIGNED

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_LARGEST_GAP = 80.0


@dataclass(frozen=True)
class Cells:
    """Non-empty cells in the order of (c1, c2), which is the order of the members table."""

    c1: np.ndarray
    c2: np.ndarray
    count: np.ndarray
    """(n,) int64 items each."""
    primaries: int
    """K1."""

    @property
    def offset(self) -> np.ndarray:
        """(n,) int64: where each cell starts in the members table."""
        return np.asarray(np.cumsum(self.count) - self.count)

    @property
    def sizes(self) -> np.ndarray:
        """(K1,) int64 items of each primary."""
        return np.bincount(self.c1, weights=self.count, minlength=self.primaries).astype(np.int64)

    @property
    def hard_pool(self) -> np.ndarray:
        """(n,) int64: items with the same c1 and another c2."""
        return np.asarray(self.sizes[self.c1] - self.count)


def count_cells(codes: DataFrame, primaries: int) -> Cells:
    """Sizes of the cells of item_idx, c1, c2; at most K1 x K2 numbers reach the driver."""
    from pyspark.sql import functions as F

    table = codes.where(F.col(PRIMARY) != UNASSIGNED).groupBy(PRIMARY, SECONDARY).count().toArrow()
    c1, c2, count = (table.column(name).to_numpy() for name in (PRIMARY, SECONDARY, "count"))
    order = np.lexsort((c2, c1))
    return Cells(c1[order].astype(np.int32), c2[order].astype(np.int32), count[order].astype(np.int64), primaries)


def distances(centroids: np.ndarray) -> np.ndarray:
    """(K1, d) -> (K1, K1) float64 Euclidean distances, infinite on the diagonal."""
    from scipy.spatial.distance import cdist

    found = np.asarray(cdist(centroids.astype(np.float64), centroids.astype(np.float64)))
    np.fill_diagonal(found, np.inf)
    return found


def fallbacks(cells: Cells, apart: np.ndarray, n_h: int) -> np.ndarray:
    """(n,) int32: the nearest primary that tops up a hard pool of fewer than n_h items; UNASSIGNED where none is needed."""
    nearest = apart.argmin(axis=1)
    return np.where(cells.hard_pool < n_h, nearest[cells.c1], UNASSIGNED).astype(np.int32)


def transitions(apart: np.ndarray, temperature: float) -> np.ndarray:
    """P(C_j | C_i) = softmax over j != i of -||P_i - P_j|| / T_c (METHOD 2).

    Distances beyond the nearest plus 80 T_c count as that: in float32 the probability stays above 0, so that drawing
    without replacement never runs out of primaries.

    Args:
        apart: rows of `distances`, all or some; infinite where a primary meets itself.
        temperature: T_c.

    Returns:
        float32 of that shape, rows sum to 1, 0 where a primary meets itself.
    """
    logits = -apart / temperature
    logits = np.maximum(logits - logits.max(axis=1, keepdims=True), -_LARGEST_GAP)
    weights = np.exp(logits)
    weights[np.isinf(apart)] = 0
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def cells_table(cells: Cells, fallback: np.ndarray) -> pa.Table:
    """c1, c2, offset, count, fallback."""
    columns = {PRIMARY: cells.c1, SECONDARY: cells.c2, OFFSET: cells.offset, COUNT: cells.count, FALLBACK: fallback}
    return pa.table({name: pa.array(values) for name, values in columns.items()})


def primaries_table(cells: Cells, centroids: np.ndarray) -> pa.Table:
    """c1, offset, count, centroid."""
    sizes = cells.sizes
    columns = {PRIMARY: np.arange(len(sizes), dtype=np.int32), OFFSET: np.cumsum(sizes) - sizes, COUNT: sizes}
    return pa.table({**{name: pa.array(values) for name, values in columns.items()}, CENTROID: lists(centroids)})


def secondaries_table(centroids: np.ndarray) -> pa.Table:
    """c2, centroid."""
    return pa.table({SECONDARY: pa.array(np.arange(len(centroids), dtype=np.int32)), CENTROID: lists(centroids)})


def transitions_table(probabilities: np.ndarray) -> pa.Table:
    """c1, probabilities."""
    return pa.table({PRIMARY: pa.array(np.arange(len(probabilities), dtype=np.int32)), PROBABILITIES: lists(probabilities)})


def prototypes_table(book: Primaries) -> pa.Table:
    """Columns centroid, penalty float, choices list<int>: how an item finds its primary, for assigning new items to frozen codebooks."""
    choices = pa.array([list(choice) for choice in book.choices], pa.list_(pa.int32()))
    return pa.table({CENTROID: lists(book.prototypes), "penalty": pa.array(book.penalty), "choices": choices})


def members(codes: DataFrame, cells: Cells) -> DataFrame:
    """position, item_idx: items in the order of (c1, c2, item_idx). Sorted within cells only, which no size makes slow."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    spark = codes.sparkSession
    starts = spark.createDataFrame(pa.table({PRIMARY: cells.c1, SECONDARY: cells.c2, OFFSET: cells.offset}))
    inside = Window.partitionBy(PRIMARY, SECONDARY).orderBy(ITEM_IDX)
    placed = codes.join(F.broadcast(starts), [PRIMARY, SECONDARY]).withColumn("place", F.row_number().over(inside))
    return placed.select((F.col(OFFSET) + F.col("place") - 1).cast("long").alias(POSITION), ITEM_IDX).orderBy(POSITION)


def lists(rows: np.ndarray) -> pa.Array:
    """(n, d) floats as a list<float> array."""
    offsets = np.arange(0, rows.size + 1, rows.shape[1], dtype=np.int64)
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(rows.astype(np.float32).reshape(-1))).cast(pa.list_(pa.float32()))
