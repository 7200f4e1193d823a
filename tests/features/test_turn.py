"""Vectors of a new fit in the space of an earlier one."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esans.features.turn import rotation, turn
from esans.features.vectors import clean


def unit(n, d, seed):
    rows = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def orthogonal(d, seed):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))[0]


def frame(spark, vectors, items=None):
    items = np.arange(len(vectors)) if items is None else items
    return spark.createDataFrame(pa.table({"item_idx": pa.array(items), "vector": pa.array(list(vectors), pa.list_(pa.float32()))}))


@settings(deadline=None, max_examples=30)
@given(n=st.integers(1, 12), d=st.integers(1, 6), seed=st.integers(0, 2**31))
def test_the_map_is_orthogonal_and_no_other_one_brings_items_closer(n, d, seed):
    new, old = unit(n, d, seed).astype(np.float64), unit(n, d, seed + 1).astype(np.float64)
    found = rotation(new.T @ old)
    np.testing.assert_allclose(found @ found.T, np.eye(d), atol=1e-5)
    best = ((new @ found) * old).sum()
    for other in (np.eye(d), orthogonal(d, seed), -np.eye(d)):
        assert best >= ((new @ other) * old).sum() - 1e-4


def test_a_turned_fit_comes_back_and_new_items_come_along(spark):
    old, map_DD = unit(40, 5, 0), orthogonal(5, 1).astype(np.float32)
    fresh = np.concatenate([old, unit(6, 5, 2)]) @ map_DD
    found, figures = turn(clean(frame(spark, fresh), 5), frame(spark, [*old, None], np.arange(41)))
    got = np.array(found.frame.toArrow().sort_by("item_idx").column("vector").to_pylist())
    np.testing.assert_allclose(got[:40], old, atol=1e-5)
    np.testing.assert_allclose(got[40:], unit(6, 5, 2), atol=1e-5)
    assert figures["kept_cosine"] == pytest.approx(1, abs=1e-5)
    assert figures["unturned_cosine"] == pytest.approx((fresh[:40] * old).sum(1).mean(), abs=1e-5)


def test_without_a_shared_item_nothing_is_turned(spark):
    fresh = clean(frame(spark, unit(4, 3, 0)), 3)
    found, figures = turn(fresh, frame(spark, unit(4, 3, 1), np.arange(10, 14)))
    assert found is fresh
    assert figures == {}
