"""Vectors of a new fit in the space of an earlier one: the orthogonal map that brings shared items closest to where they were."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from esans.columns import ITEM_IDX
from esans.features.vectors import VECTOR, Clean, list_array, vector_schema

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_OLD = "old"
# Partial sums that reach the driver: so many times dim x dim doubles.
_PARTS = 16


def rotation(cross_DD: np.ndarray) -> np.ndarray:
    """The orthogonal R that makes sum_i <x_i R, y_i> greatest, given sum_i x_i^T y_i (orthogonal Procrustes; Schoenemann 1966).

    Args:
        cross_DD: (d, d) float64.

    Returns:
        (d, d) float32.
    """
    left, _, right = np.linalg.svd(cross_DD)
    return (left @ right).astype(np.float32)


def turn(found: Clean, earlier: DataFrame) -> tuple[Clean, dict[str, float]]:
    """The vectors, turned into the space of earlier ones; angles between them do not change.

    Args:
        found: unit vectors of today.
        earlier: item_idx, vector array<float> of the same length, unit vectors.

    Returns:
        The same items, and `kept_cosine` and `unturned_cosine`: mean cosine of a shared item with where it was, after and before.
        Nothing is turned, and there are no figures, where no item is shared.
    """
    from pyspark.sql import functions as F

    old = earlier.where(F.col(VECTOR).isNotNull()).select(ITEM_IDX, F.col(VECTOR).alias(_OLD))
    shared, cross = _cross(found.frame.join(old, ITEM_IDX), found.dim)
    if not shared:
        return found, {}
    map_DD = rotation(cross)
    figures = {"kept_cosine": float((cross * map_DD).sum()) / shared, "unturned_cosine": float(np.trace(cross)) / shared}
    return replace(found, frame=_turned(found.frame, map_DD)), figures


def _cross(both: DataFrame, dim: int) -> tuple[int, np.ndarray]:
    """Number of shared items, and the sum of the outer products of their new and old vectors."""
    schema = "items long, sums array<double>"

    def add(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        items, sums = 0, np.zeros((dim, dim))
        for batch in batches:
            new, old = (_dense(batch, name, dim).astype(np.float64) for name in (VECTOR, _OLD))
            items, sums = items + len(new), sums + new.T @ old
        yield pa.RecordBatch.from_arrays([pa.array([items]), pa.array([sums.ravel()], pa.list_(pa.float64()))], ["items", "sums"])

    parts = both.select(VECTOR, _OLD).coalesce(_PARTS).mapInArrow(add, schema).collect()
    total = sum((np.array(part["sums"]).reshape(dim, dim) for part in parts), np.zeros((dim, dim)))
    return sum(part["items"] for part in parts), total


def _turned(frame: DataFrame, map_DD: np.ndarray) -> DataFrame:
    shared = frame.sparkSession.sparkContext.broadcast(map_DD)

    def apply(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            vectors = _dense(batch, VECTOR, len(shared.value)) @ shared.value
            column = list_array(vectors.astype(np.float32), np.ones(len(vectors), bool))
            yield pa.RecordBatch.from_arrays([batch.column(batch.schema.get_field_index(ITEM_IDX)), column], [ITEM_IDX, VECTOR])

    return frame.mapInArrow(apply, vector_schema())


def _dense(batch: pa.RecordBatch, name: str, dim: int) -> np.ndarray:
    column = batch.column(batch.schema.get_field_index(name))
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), dim)
