"""Clusters of equal sizes, which the published comparison stands on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.partitions import coherence, equal_clusters, mutual_information, purity, random_clusters


@settings(max_examples=15, deadline=None)
@given(n=st.integers(30, 200), k=st.integers(2, 9), missing=st.integers(0, 10), seed=st.integers(0, 99))
def test_sizes_differ_by_one_at_most_and_every_item_has_a_cluster(n: int, k: int, missing: int, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32)
    vectors[:missing] = 0
    sizes = np.bincount(equal_clusters(vectors, k, seed), minlength=k)
    assert sizes.sum() == n
    assert sizes.max() - sizes.min() <= 1


def test_clusters_of_equal_size_that_stand_apart_are_found() -> None:
    truth = np.repeat(np.arange(5), 40)
    vectors = (np.eye(5)[truth] + np.random.default_rng(0).normal(scale=0.05, size=(200, 5))).astype(np.float32)
    found = equal_clusters(vectors, 5, seed=1)
    assert purity(found, truth) == 1.0
    assert mutual_information(found, truth) == pytest.approx(1.0)
    assert coherence(found, np.arange(200), np.roll(np.arange(200), 1), np.ones(200)) == pytest.approx(0.975)


def test_purity_of_random_clusters_is_that_of_chance() -> None:
    category = np.random.default_rng(0).integers(0, 2, 20_000)
    assert purity(random_clusters(20_000, [10_000, 10_000], 3), category) == pytest.approx(0.5, abs=0.02)


def test_items_without_a_category_are_left_out() -> None:
    assert purity(np.array([0, 0, 1]), np.array([1, -1, 0])) == 1.0
