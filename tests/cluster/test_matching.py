from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from esans.cluster.matching import matched, relabelled
from esans.codebooks.codebook import Codebooks, Primaries


@settings(deadline=None, max_examples=30)
@given(old=st.integers(0, 12), new=st.integers(1, 12), seed=st.integers(0, 1000))
def test_ids_are_a_permutation_and_no_matching_of_the_same_centroids_costs_less(old, new, seed):
    random = np.random.default_rng(seed)
    before, after = random.standard_normal((old, 3)), random.standard_normal((new, 3))
    ids = random.permutation(20)[:old]
    found = matched(after, before, ids)
    assert sorted(found) == list(range(new))
    for _ in range(20 if old == new and (ids < new).all() else 0):
        place = {name: row for row, name in enumerate(ids)}
        cost = sum(((after[k] - before[place[found[k]]]) ** 2).sum() for k in range(new))
        other = random.permutation(new)
        assert cost <= ((after - before[other]) ** 2).sum() + 1e-9


def test_a_shuffled_codebook_gets_its_old_ids_back_and_a_new_centroid_the_free_one():
    random = np.random.default_rng(0)
    before = random.standard_normal((30, 4))
    order = random.permutation(30)
    np.testing.assert_array_equal(matched(before[order] + 1e-3, before, np.arange(30)), order)
    # Cluster 7 has vanished, and another one has come in its place.
    gone = np.delete(np.arange(30), 7)
    found = matched(np.concatenate([before[gone], np.full((1, 4), 50.0)]), before[gone], gone)
    np.testing.assert_array_equal(found, [*gone, 7])


def test_equal_centroids_keep_their_ids_too():
    same = np.zeros((5, 2))
    np.testing.assert_array_equal(matched(same, same, np.arange(5)), np.arange(5))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000))
def test_codes_under_other_ids_are_the_codes_renamed(seed):
    random = np.random.default_rng(seed)
    primaries = Primaries(
        random.standard_normal((4, 3)).astype(np.float32),
        random.random(4).astype(np.float32),
        ((2,), (0, 3), (1,), (2,)),
        random.standard_normal((4, 3)).astype(np.float32),
    )
    books = Codebooks(primaries, random.standard_normal((5, 6)).astype(np.float32))
    p, q = random.permutation(4), random.permutation(5)
    item, vectors = np.arange(50), random.standard_normal((50, 2, 3)).astype(np.float32)
    c1, c2 = books.assign(item, vectors, vectors.mean(1))
    renamed1, renamed2 = relabelled(books, p, q).assign(item, vectors, vectors.mean(1))
    shared = np.isin(c1, (0, 3))  # who of a shared prototype gets which primary is a hash, in the order of the choices
    np.testing.assert_array_equal(renamed1[~shared], p[c1][~shared])
    np.testing.assert_array_equal(renamed1[shared], p[c1][shared])
    np.testing.assert_array_equal(renamed2, q[c2])
