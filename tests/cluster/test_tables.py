from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esans.cluster.tables import Cells, cells_table, count_cells, distances, fallbacks, members, primaries_table, transitions
from esans.columns import UNASSIGNED


def random_codes(seed: int, n: int, k1: int, k2: int) -> pa.Table:
    random = np.random.default_rng(seed)
    c1 = random.integers(0, k1, n)
    c1[:k1] = np.arange(k1)
    c2 = random.integers(0, k2, n)
    lost = random.random(n) < 0.1
    lost[:k1] = False
    return pa.table(
        {
            "item_idx": pa.array(random.permutation(n)),
            "c1": pa.array(np.where(lost, UNASSIGNED, c1).astype(np.int32)),
            "c2": pa.array(np.where(lost, UNASSIGNED, c2).astype(np.int32)),
        }
    )


@pytest.mark.parametrize(("seed", "n", "k1", "k2"), [(0, 500, 7, 4), (1, 40, 3, 9), (2, 30, 1, 1)])
def test_the_csr_holds_every_assigned_item_once_in_the_order_of_its_cell(spark, seed, n, k1, k2):
    table = random_codes(seed, n, k1, k2)
    codes = spark.createDataFrame(table)
    cells = count_cells(codes, k1)
    placed = members(codes, cells).toArrow().sort_by("position")
    rows = zip(*(table.column(name).to_pylist() for name in ("c1", "c2", "item_idx")), strict=True)
    assigned = sorted(row for row in rows if row[0] >= 0)
    assert placed.column("position").to_pylist() == list(range(len(assigned)))
    assert placed.column("item_idx").to_pylist() == [item for _, _, item in assigned]
    starts = cells_table(cells, np.full(len(cells.count), -1, np.int32)).to_pylist()
    for cell in starts:
        own = assigned[cell["offset"] : cell["offset"] + cell["count"]]
        assert {(c1, c2) for c1, c2, _ in own} == {(cell["c1"], cell["c2"])}
    assert sum(cell["count"] for cell in starts) == len(assigned)
    for primary in primaries_table(cells, np.zeros((k1, 2))).to_pylist():
        own = assigned[primary["offset"] : primary["offset"] + primary["count"]]
        assert {c1 for c1, _, _ in own} == {primary["c1"]}


@settings(deadline=None)
@given(
    k=st.integers(2, 12),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([0.0, 1.0, 1e3]),
    temperature=st.sampled_from([1e-3, 0.1, 1.0, 1e3]),
)
def test_transitions_sum_to_one_over_the_others_and_favour_the_near(k, seed, scale, temperature):
    centroids = (scale * np.random.default_rng(seed).standard_normal((k, 3))).astype(np.float32)
    apart = distances(centroids)
    found = transitions(apart, temperature)
    assert found.dtype == np.float32
    assert (np.diag(found) == 0).all()
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    off = ~np.eye(k, dtype=bool)
    assert (found[off] > 0).all()
    for row, near in zip(found, apart, strict=True):
        assert (np.diff(row[np.argsort(near)][:-1]) <= 1e-6).all()


def test_transitions_are_the_softmax_of_negative_distances():
    found = transitions(distances(np.array([[0.0], [1.0], [3.0]])), 2.0)
    weights = np.exp([-1 / 2, -3 / 2])
    np.testing.assert_allclose(found[0], [0, *(weights / weights.sum())], rtol=1e-6)


@settings(deadline=None)
@given(seed=st.integers(0, 1000), k1=st.integers(2, 6), k2=st.integers(1, 4), n_h=st.integers(1, 20))
def test_every_hard_pool_with_its_fallback_holds_n_h_items_and_no_other_has_one(seed, k1, k2, n_h):
    random = np.random.default_rng(seed)
    sizes = random.integers(0, 12, (k1, k2))
    sizes[:, 0] += np.maximum(20 - sizes.sum(1), 0)
    c1, c2 = np.nonzero(sizes)
    cells = Cells(c1.astype(np.int32), c2.astype(np.int32), sizes[c1, c2].astype(np.int64), k1)
    found = fallbacks(cells, distances(random.standard_normal((k1, 3))), n_h)
    for place, other in enumerate(found):
        own = cells.sizes[c1[place]] - cells.count[place]
        assert (other == UNASSIGNED) == (own >= n_h)
        assert other != c1[place]
        assert own + (cells.sizes[other] if other != UNASSIGNED else 0) >= n_h
