from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from esans.features.vectors import ABSENT, BAD_LENGTH, GOOD, NOT_FINITE, ZERO, list_array, unit

number = st.integers(-1000, 1000).map(lambda eighths: eighths / 8) | st.sampled_from([0.0, 1e30, math.nan, math.inf, None])
row = st.none() | st.lists(number, min_size=3, max_size=3) | st.lists(st.just(0.0), max_size=4) | st.lists(st.just(1.0), max_size=5)


def kind(values: list[float | None] | None) -> int:
    if values is None:
        return ABSENT
    if len(values) != 3:
        return BAD_LENGTH
    if any(value is None or not math.isfinite(value) for value in values):
        return NOT_FINITE
    return GOOD if any(values) else ZERO


@settings(deadline=None)
@given(rows=st.lists(row, max_size=12), start=st.integers(0, 3))
def test_what_is_no_proper_vector_is_counted_by_kind_and_becomes_null_never_zeros(rows, start):
    # A slice, because Arrow hands out batches that begin inside a buffer.
    vectors, status = unit(pa.array(rows, pa.list_(pa.float32())).slice(start), 3)
    assert status.tolist() == [kind(values) for values in rows[start:]]
    for values, found in zip(vectors.to_pylist(), status, strict=True):
        assert (values is None) == (found != GOOD)
        if values is not None:
            assert math.isclose(np.linalg.norm(values), 1, rel_tol=1e-4)


@settings(deadline=None)
@given(rows=st.lists(st.none() | st.lists(st.integers(-8, 8).map(float), min_size=2, max_size=2), max_size=8))
def test_list_array_keeps_rows_and_nulls(rows):
    dense = np.array([values or [0, 0] for values in rows], np.float32).reshape(-1, 2)
    array = list_array(dense, np.array([values is not None for values in rows], bool))
    assert array.to_pylist() == rows
