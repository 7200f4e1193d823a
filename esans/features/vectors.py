"""Raw vectors to unit vectors: what is no proper vector is counted by kind and becomes null, never zeros (METHOD 1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from esans.columns import ITEM_IDX

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

VECTOR, STATUS = "vector", "status"
GOOD, ABSENT, BAD_LENGTH, NOT_FINITE, ZERO = range(5)
PROBLEMS = {BAD_LENGTH: "bad_length", NOT_FINITE: "not_finite", ZERO: "zero"}


def vector_schema(*, status: bool = False) -> Any:
    """Spark schema of item_idx, vector array<float> and, on request, status int."""
    from pyspark.sql import types as T

    fields = [T.StructField(ITEM_IDX, T.LongType()), T.StructField(VECTOR, T.ArrayType(T.FloatType()))]
    return T.StructType(fields + ([T.StructField(STATUS, T.IntegerType())] if status else []))


@dataclass(frozen=True)
class Clean:
    """Unit vectors of one modality and what was wrong with the rest."""

    frame: DataFrame
    """item_idx, vector array<float>: only items that have one."""
    dim: int
    present: int
    problems: dict[str, int]
    """Rows by kind of problem: bad_length, not_finite, zero."""


def clean(raw: DataFrame, dim: int) -> Clean:
    """Scale rows to unit norm and set apart those that are null, of another length than `dim`, not finite, or zero.

    Args:
        raw: item_idx, vector array<float>.
        dim: length that vectors must have.
    """
    from pyspark import StorageLevel
    from pyspark.sql import functions as F

    def scale(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            vectors, status = unit(batch.column(1), dim)
            yield pa.RecordBatch.from_arrays([batch.column(0), vectors, pa.array(status)], [ITEM_IDX, VECTOR, STATUS])

    # On disk, since the rows are counted before they are joined, and encoding twice would cost more than reading once.
    checked = raw.select(ITEM_IDX, VECTOR).mapInArrow(scale, vector_schema(status=True)).persist(StorageLevel.DISK_ONLY)
    counts = {row[STATUS]: row["count"] for row in checked.groupBy(STATUS).count().collect()}
    return Clean(
        frame=checked.where(F.col(STATUS) == GOOD).select(ITEM_IDX, VECTOR),
        dim=dim,
        present=counts.get(GOOD, 0),
        problems={name: counts.get(status, 0) for status, name in PROBLEMS.items()},
    )


def unit(vectors: pa.Array, dim: int) -> tuple[pa.Array, np.ndarray]:
    """One batch of lists as unit vectors, null where there is none, and a status per row.

    Args:
        vectors: (n,) list array; elements may be null.
        dim: wanted length.

    Returns:
        (n,) list<float> array, (n,) int32 of GOOD, ABSENT, BAD_LENGTH, NOT_FINITE or ZERO.
    """
    status = np.full(len(vectors), GOOD, np.int32)
    lengths = vectors.value_lengths().fill_null(-1).to_numpy(zero_copy_only=False)
    status[lengths != dim] = BAD_LENGTH
    status[lengths < 0] = ABSENT
    dense = np.zeros((len(vectors), dim), np.float32)
    right = status == GOOD
    flat = vectors.filter(pa.array(right)).flatten().cast(pa.float32())
    dense[right] = flat.fill_null(float("nan")).to_numpy(zero_copy_only=False).reshape(-1, dim)
    # In double precision: squares of large floats overflow.
    norms = np.linalg.norm(dense.astype(np.float64), axis=1)
    status[right & ~np.isfinite(norms)] = NOT_FINITE
    status[right & (norms == 0)] = ZERO
    good = status == GOOD
    dense[good] = (dense[good] / norms[good, None]).astype(np.float32)
    return list_array(dense, good), status


def list_array(vectors: np.ndarray, valid: np.ndarray) -> pa.Array:
    """(n, d) float32 rows as an Arrow list array, null where not `valid`."""
    width = vectors.shape[1]
    # Arrow (14) reads a null offset as a null list; the next valid offset then closes the row before.
    offsets = np.concatenate([[0], np.cumsum(np.where(valid, width, 0))]).astype(np.int32)
    mask = np.concatenate([~valid, [False]])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32(), mask=mask), pa.array(vectors[valid].reshape(-1)))
