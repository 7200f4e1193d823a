"""Sparse rows to short dense vectors: a projection fitted on a bounded sample, applied to every row in Spark.

Words of a text and neighbours of an item are the same thing here: a row of weighted columns out of a bounded set.
Driver: the sample (bounded by the caller) and columns x dim floats. Workers: columns x dim floats and one Arrow batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from scipy import sparse

from esans.columns import ITEM_IDX
from esans.features.vectors import VECTOR, list_array, vector_schema
from esans.spark import sampled

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

COLUMNS, WEIGHTS = "columns", "weights"
_OVERSAMPLING, _POWER_ITERATIONS = 10, 4
_ROWS_AT_A_TIME = 16_384

Weigh = Callable[[sparse.csr_matrix], sparse.csr_matrix]


def sample_rows(rows: DataFrame, total: int, bound: int, seed: int) -> pa.Table:
    """About `bound` of `total` rows, chosen by a hash of item_idx, in its order: the same rows however Spark splits the data."""
    return sampled(rows, ITEM_IDX, bound / max(total, 1), seed).toArrow().sort_by(ITEM_IDX)


def to_csr(columns: pa.Array, weights: pa.Array | None, width: int) -> sparse.csr_matrix:
    """Lists of column numbers (and weights, 1 when None) as an (n, width) float32 matrix; repeats add up, a null list is an empty row."""
    lengths = columns.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    # Arrow memory is read-only, and summing repeats works in place.
    indices = columns.flatten().to_numpy(zero_copy_only=False).copy()
    data = np.ones(len(indices)) if weights is None else weights.flatten().to_numpy(zero_copy_only=False)
    matrix = sparse.csr_matrix((data.astype(np.float32), indices, indptr), shape=(len(lengths), width))
    matrix.sum_duplicates()
    return matrix


def unit_rows(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """Rows scaled to unit L2 norm; empty rows stay empty."""
    norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    return sparse.csr_matrix(sparse.diags(1.0 / np.maximum(norms, 1e-12)) @ matrix, dtype=np.float32)


def fit_svd(matrix: sparse.csr_matrix, dim: int, seed: int) -> tuple[np.ndarray, float]:
    """Truncated right singular vectors by randomised subspace iteration (Halko et al. 2011), each divided by the root of its value.

    Halving the spectrum keeps the first direction, mostly popularity or word frequency, from drowning the rest.

    Args:
        matrix: (n, width) rows to fit on.
        dim: wanted length; where the matrix has fewer directions, the rest of the result is 0.
        seed: of the starting directions.

    Returns:
        (width, dim) float32 projection, and the share of the squared norm that it keeps.
    """
    width = matrix.shape[1]
    if matrix.nnz == 0:
        return np.zeros((width, dim), np.float32), 0.0
    rank = min(dim + _OVERSAMPLING, *matrix.shape)
    basis = np.random.default_rng(seed).standard_normal((width, rank))
    for _ in range(_POWER_ITERATIONS):
        basis, _ = np.linalg.qr(_there_and_back(matrix, basis))
    squares, turn = np.linalg.eigh(basis.T @ _there_and_back(matrix, basis))
    values, directions = np.sqrt(np.maximum(squares[::-1], 0)), (basis @ turn[:, ::-1]).T
    keep = int(min(dim, (values > values[0] * 1e-6).sum()))
    # The sign of a singular vector is arbitrary; fixing it keeps two builds comparable.
    directions = directions[:keep] * np.sign(directions[:keep][np.arange(keep), np.abs(directions[:keep]).argmax(axis=1)])[:, None]
    projection = np.zeros((width, dim), np.float32)
    projection[:, :keep] = (directions / np.sqrt(values[:keep])[:, None]).T
    return projection, float((values[:keep] ** 2).sum() / matrix.multiply(matrix).sum())


def _there_and_back(matrix: sparse.csr_matrix, basis: np.ndarray) -> np.ndarray:
    """M^T M times (width, rank), some rows of M at a time: nothing as long as the sample is ever dense."""
    total = np.zeros_like(basis)
    for start in range(0, matrix.shape[0], _ROWS_AT_A_TIME):
        part = matrix[start : start + _ROWS_AT_A_TIME]
        total += part.T @ (part @ basis)
    return total


def random_projection(width: int, dim: int, seed: int) -> np.ndarray:
    """(width, dim) float32 seeded Gaussian directions (Johnson-Lindenstrauss)."""
    directions = np.random.default_rng(seed).standard_normal((width, dim), dtype=np.float32)
    return directions / np.float32(np.sqrt(dim))


def project(rows: DataFrame, projection: np.ndarray, weigh: Weigh, *, weighted: bool) -> DataFrame:
    """Every row times the broadcast projection.

    Args:
        rows: item_idx, columns array<int>, and weights array<float> when `weighted`.
        projection: (width, dim) float32.
        weigh: what happens to the sparse rows before the product; runs on the workers.
        weighted: whether rows carry weights.

    Returns:
        item_idx, vector array<float>; null where a row has no known column.
    """
    shared = rows.sparkSession.sparkContext.broadcast(projection)

    def apply(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            weights = batch.column(batch.schema.get_field_index(WEIGHTS)) if weighted else None
            matrix = weigh(to_csr(batch.column(batch.schema.get_field_index(COLUMNS)), weights, shared.value.shape[0]))
            vectors = np.asarray(matrix @ shared.value, dtype=np.float32)
            empty = np.diff(matrix.indptr) == 0
            yield pa.RecordBatch.from_arrays(
                [batch.column(batch.schema.get_field_index(ITEM_IDX)), list_array(vectors, ~empty)], [ITEM_IDX, VECTOR]
            )

    return rows.mapInArrow(apply, vector_schema())
