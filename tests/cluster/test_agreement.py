from __future__ import annotations

from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest

from esans.cluster.agreement import agreement, category_agreement, stability
from esans.cluster.quality import entropy_ratio, gini


def naive_ari(a, b):
    pairs = list(combinations(range(len(a)), 2))
    same_a = np.array([a[i] == a[j] for i, j in pairs])
    same_b = np.array([b[i] == b[j] for i, j in pairs])
    expected = same_a.sum() * same_b.sum() / len(pairs)
    return ((same_a & same_b).sum() - expected) / ((same_a.sum() + same_b.sum()) / 2 - expected)


def frame(spark, a, b):
    return spark.createDataFrame(pa.table({"a": pa.array(a), "b": pa.array(b)}))


def test_agreement_is_that_of_all_pairs_of_items(spark):
    random = np.random.default_rng(0)
    a, b = random.integers(0, 4, 60), random.integers(0, 3, 60)
    found = agreement(frame(spark, a, b))
    assert found["ari"] == pytest.approx(naive_ari(a, b))
    assert found["purity"] == sum(np.bincount(b[a == k]).max() for k in range(4)) / 60
    assert found["chance"] == np.bincount(b).max() / 60


def test_the_same_partition_under_other_names_agrees_wholly(spark):
    a = np.arange(30) % 5
    found = agreement(frame(spark, a, (a * 3 + 1) % 5))
    assert found == pytest.approx({"purity": 1, "chance": 0.2, "nmi": 1, "ari": 1})


def test_unassigned_items_and_items_without_a_category_are_left_out(spark):
    codes = pa.table(
        {
            "item_idx": pa.array(range(5), pa.int64()),
            "c1": pa.array([0, 0, 1, 1, -1], pa.int32()),
            "c2": pa.array([0, 1, 0, 1, -1], pa.int32()),
        }
    )
    items = pa.table({"item_idx": pa.array(range(5), pa.int64()), "side_kind": ["x", "x", "y", None, "z"]})
    codes = spark.createDataFrame(codes)
    assert category_agreement(codes, spark.createDataFrame(items), "side_kind") == pytest.approx(
        {"category.purity": 1, "category.chance": 2 / 3, "category.nmi": 1}
    )
    assert stability(codes, codes) == {"stability.primary_ari": 1, "stability.cell_ari": 1}


def test_balance_figures_know_equal_and_unequal_sizes():
    assert (gini(np.array([5, 5, 5])), entropy_ratio(np.array([5, 5, 5]))) == pytest.approx((0, 1))
    assert (gini(np.array([0, 0, 9])), entropy_ratio(np.array([0, 0, 9]))) == pytest.approx((2 / 3, 0))
