from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from esans.codebooks.codebook import Primaries, mix, nearest, residuals


@settings(deadline=None)
@given(n=st.integers(0, 30), k=st.integers(1, 9), batch=st.integers(1, 7), seed=st.integers(0, 1000), penalised=st.booleans())
def test_the_nearest_centroid_is_that_of_all_squared_distances_plus_penalties(n, k, batch, seed, penalised):
    random = np.random.default_rng(seed)
    vectors, centroids = random.standard_normal((n, 4)).astype(np.float32), random.standard_normal((k, 4)).astype(np.float32)
    penalty = random.random(k).astype(np.float32) if penalised else None
    distance = ((vectors[:, None] - centroids) ** 2).sum(-1) + (0 if penalty is None else penalty)
    np.testing.assert_array_equal(nearest(vectors, centroids, penalty, batch), distance.argmin(1) if n else [])


def test_items_that_share_a_prototype_are_spread_over_its_primaries_by_a_hash_of_the_item():
    centroids = np.zeros((3, 2), np.float32)
    book = Primaries(np.array([[0, 0], [5, 5]], np.float32), np.zeros(2, np.float32), ((0, 1), (2,)), centroids)
    item = np.arange(10_000)
    found = book.assign(item, np.zeros((10_000, 2), np.float32))
    np.testing.assert_array_equal(found, mix(item) % 2)
    assert 4_800 < (found == 0).sum() < 5_200
    assert (book.assign(item[:5], np.full((5, 2), 5, np.float32)) == 2).all()


def test_a_residual_is_every_modality_less_the_primary_centroid():
    vectors = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    centroids = np.array([[1, 1], [2, 3]], np.float32)
    np.testing.assert_array_equal(residuals(vectors, np.array([1, 0]), centroids)[0], [0 - 2, 1 - 3, 2 - 2, 3 - 3, 4 - 2, 5 - 3])
