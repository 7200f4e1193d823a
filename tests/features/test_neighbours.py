"""Packs and the strongest neighbours: the naive form here, the fast one in the product."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from esans.features import neighbours as N
from esans.features.pairs import UNIT

ITEMS = 12
pairs = st.lists(st.tuples(st.integers(0, ITEMS - 1), st.integers(0, ITEMS - 1), st.integers(1, 3 * UNIT)), min_size=1, max_size=60)


def columns(rows):
    return tuple(np.array(column, np.int64) for column in zip(*rows, strict=True))


@given(rows=pairs, buckets=st.integers(1, 7))
@settings(max_examples=50, deadline=None)
def test_packs_hold_every_pair_in_both_directions_and_all_pairs_of_an_item_meet(rows, buckets):
    found = []
    for bucket, packed in N.pack(*columns(rows), buckets):
        item, other, weight = N.unpack(packed)
        assert (item % buckets == bucket).all()
        found += list(zip(item.tolist(), other.tolist(), weight.tolist(), strict=True))
    assert sorted(found) == sorted([(a, b, w) for a, b, w in rows] + [(b, a, w) for a, b, w in rows])


@given(rows=pairs, keep=st.integers(1, 4), pieces=st.integers(1, 4), pending=st.integers(1, 50))
@settings(max_examples=50, deadline=None)
def test_the_strongest_neighbours_are_those_of_the_naive_sum_however_packs_are_cut(rows, keep, pieces, pending):
    total: dict[tuple[int, int], int] = defaultdict(int)
    for a, b, weight in rows:
        total[a, b] += weight
        total[b, a] += weight
    count = np.arange(1.0, ITEMS + 1)
    naive = defaultdict(list)
    for (a, b), weight in total.items():
        naive[a].append((-np.float32(weight / UNIT / ((count[a] * count[b]) ** 0.5 + 5.0)), b))
    expected = [(a, b, -score) for a in sorted(naive) for score, b in sorted(naive[a])[:keep]]

    cut = [part for part in np.array_split(np.arange(len(rows)), pieces) if len(part)]
    packs = [packed for part in cut for _, packed in N.pack(*(column[part] for column in columns(rows)), 1)]
    held, N._PENDING = N._PENDING, pending
    try:
        item, other, score = N.Strongest(ITEMS, count, 0.5, 5.0, keep).run(packs)
    finally:
        N._PENDING = held
    assert list(zip(item.tolist(), other.tolist(), score, strict=True)) == expected


def test_no_pairs_give_no_neighbours():
    assert [len(column) for column in N.Strongest(ITEMS, np.ones(ITEMS), 0.5, 5.0, 3).run([])] == [0, 0, 0]
