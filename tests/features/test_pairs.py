from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from esans.features.pairs import UNIT, PairCounter

NUM_ITEMS = 6
DAY = 86_400

events = st.lists(st.tuples(st.integers(0, 3), st.integers(0, NUM_ITEMS - 1), st.integers(0, 40)), max_size=40)


def ordered(rows: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """By user, the latest first."""
    return sorted(rows, key=lambda row: (row[0], -row[2]))


def count(rows: list[tuple[int, int, int]], pieces: int, cap: int, window: int, half_life: float | None) -> dict[tuple[int, int], int]:
    columns = [np.array([row[place] for row in rows], np.int64) for place in range(3)]
    columns[2] = columns[2] * DAY
    counter = PairCounter(NUM_ITEMS, cap, window, None if half_life is None else half_life * DAY)
    cut = [tuple(part) for part in zip(*(np.array_split(column, pieces) for column in columns), strict=True)]
    found: dict[tuple[int, int], int] = defaultdict(int)
    for left, right, weight in counter.run(cut):
        for a, b, w in zip(left.tolist(), right.tolist(), weight.tolist(), strict=True):
            found[a, b] += w
    return dict(found)


def naive(rows: list[tuple[int, int, int]], cap: int, window: int, half_life: float | None) -> dict[tuple[int, int], int]:
    found: dict[tuple[int, int], int] = defaultdict(int)
    for user in {row[0] for row in rows}:
        own = [row for row in rows if row[0] == user][:cap]
        for i, (_, a, day_a) in enumerate(own):
            for _, b, day_b in own[i + 1 : i + 1 + window]:
                weight = 1.0 if half_life is None else 2.0 ** (-abs(day_a - day_b) / half_life)
                if a != b:
                    found[min(a, b), max(a, b)] += round(weight * UNIT)
    return {pair: weight for pair, weight in found.items() if weight}


@settings(deadline=None)
@given(rows=events, pieces=st.integers(1, 5), cap=st.integers(1, 12), window=st.integers(1, 8), half_life=st.sampled_from([None, 3.0]))
def test_pairs_are_those_of_the_double_loop_however_the_stream_is_cut(rows, pieces, cap, window, half_life):
    rows = ordered(rows)
    assert count(rows, pieces, cap, window, half_life) == naive(rows, cap, window, half_life)


@settings(deadline=None)
@given(rows=events, window=st.integers(1, 5), cap=st.integers(1, 10))
def test_a_user_adds_at_most_cap_times_window_pairs(rows, window, cap):
    rows = ordered(rows)
    users = len({row[0] for row in rows})
    assert sum(count(rows, 1, cap, window, None).values()) <= users * cap * window * UNIT
