from __future__ import annotations

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esans.codebooks.codebook import nearest
from esans.codebooks.config import KMeansConfig
from esans.codebooks.kmeans import kmeans, resized, shares
from esans.config import build
from esans.errors import ConfigError

# Fits of a few hundred points gain nothing from threads, and lose much where tests share the machine.
faiss.omp_set_num_threads(1)

TWO_LEVEL = build(KMeansConfig, {"two_level": "always", "iterations": 5})


def clustered(n, seed=0, d=6, centres=12):
    random = np.random.default_rng(seed)
    return (random.standard_normal((centres, d))[random.integers(0, centres, n)] + 0.2 * random.standard_normal((n, d))).astype(np.float32)


def distortion(vectors, centroids):
    return ((vectors - centroids[nearest(vectors, centroids)]) ** 2).sum(1).mean()


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 400), min_size=1, max_size=30), part=st.floats(0, 1))
def test_shares_add_up_to_k_and_give_every_cluster_one_and_no_more_than_its_items(sizes, part):
    sizes = np.array(sizes)
    k = len(sizes) + int(part * (sizes.sum() - len(sizes)))
    found = shares(sizes, k)
    assert found.sum() == k
    assert (found >= 1).all()
    assert (found <= sizes).all()
    # In proportion, but for the bounds and for one part of rounding where the bounds take nothing.
    wanted = sizes * k / sizes.sum()
    if (wanted >= 1).all():
        assert (np.abs(found - wanted) <= 1).all()


@settings(deadline=None, max_examples=15)
@given(n=st.integers(30, 300), share=st.floats(0.01, 0.95), seed=st.integers(0, 100))
def test_two_levels_give_exactly_k_and_the_same_ones_for_the_same_seed(n, share, seed):
    vectors, k = clustered(n, seed), max(2, int(share * n))
    found = kmeans(vectors, k, TWO_LEVEL, seed)
    assert found.shape == (k, 6)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, kmeans(vectors, k, TWO_LEVEL, seed))


def test_two_levels_are_nearly_as_good_as_one():
    vectors = clustered(4_000, centres=60)
    flat = kmeans(vectors, 60, build(KMeansConfig, {"two_level": "never"}), 0)
    assert distortion(vectors, kmeans(vectors, 60, KMeansConfig(two_level="always"), 0)) < 1.1 * distortion(vectors, flat)


def test_two_levels_of_identical_vectors_are_k_all_the_same():
    found = kmeans(np.ones((500, 6), np.float32), 40, TWO_LEVEL, 0)
    assert found.shape == (40, 6)
    np.testing.assert_allclose(found, 1, atol=1e-2)


def test_spherical_centroids_have_unit_norm_in_one_level_and_in_two():
    for mode in ("always", "never"):
        found = kmeans(clustered(400), 30, build(KMeansConfig, {"two_level": mode}), 0, spherical=True)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)


def test_a_start_at_a_fixed_point_stays_there_and_keeps_its_order():
    vectors = np.repeat(5 * np.eye(6, dtype=np.float32), 20, axis=0)
    start = 5 * np.eye(6, dtype=np.float32)[[3, 1, 0, 5, 4, 2]]
    np.testing.assert_allclose(kmeans(vectors, 6, KMeansConfig(), 7, start=start), start, rtol=1e-6)


def test_a_start_is_cut_to_its_most_used_centroids_and_extended_by_far_vectors():
    vectors = np.concatenate([np.full((10, 2), x, np.float32) for x in (0, 1, 9)] + [np.full((1, 2), 4, np.float32)])
    start = np.array([[4, 4], [1, 1], [0, 0]], np.float32)
    np.testing.assert_array_equal(resized(start, 2, vectors, 0), start[[0, 1]])
    longer = resized(start, 4, vectors, 0)
    np.testing.assert_array_equal(longer[:3], start)
    assert longer[3].tolist() == [9, 9]
    assert resized(start, 3, vectors, 0) is start


def test_a_gpu_is_taken_where_faiss_sees_one_and_asked_for_where_it_must_be(monkeypatch):
    asked = []

    class Recorded(faiss.Kmeans):
        def __init__(self, *arguments, gpu, **rest):
            asked.append(gpu)
            super().__init__(*arguments, gpu=False, **rest)

    monkeypatch.setattr(faiss, "Kmeans", Recorded)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    for device in ("auto", "gpu", "cpu"):
        kmeans(clustered(100), 3, build(KMeansConfig, {"device": device}), 0)
    assert asked == [True, True, False]
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    with pytest.raises(ConfigError) as error:
        kmeans(clustered(100), 3, build(KMeansConfig, {"device": "gpu"}), 0)
    assert str(error.value) == (
        "kmeans.device = 'gpu': faiss sees no GPU here. Install the extra `gpu` on a GPU machine, or set auto or cpu."
    )
