from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esans.config import build
from esans.features.config import GraphConfig
from esans.features.swing import Rows, Swing
from esans.features.swing_graph import swing_graph, top
from tests.features.helpers import interactions

NUM_ITEMS = 7
DAY = 86_400
History = list[tuple[int, int]]

step = st.tuples(st.integers(0, NUM_ITEMS - 1), st.integers(0, 30))
histories = st.lists(st.lists(step, min_size=1, max_size=6, unique_by=lambda one: one[0]), max_size=6)


def rows(users: list[History]) -> Rows:
    """Every item with its users, sorted by item and user."""
    found = [(item, users[user]) for item in range(NUM_ITEMS) for user in range(len(users)) if item in dict(users[user])]
    flat = [step for _, history in found for step in history]
    lengths = [len(history) for _, history in found]
    columns = ([item for item, _ in found], lengths, [item for item, _ in flat], [day * DAY for _, day in flat])
    return Rows(*(np.array(column, np.int64) for column in columns))


def scores(users: list[History], pieces: int = 1, window: int = 100, half_life: float | None = None) -> dict[tuple[int, int], float]:
    whole = rows(users)
    cuts = np.linspace(0, len(whole), pieces + 1).astype(int)
    swing = Swing(NUM_ITEMS, window, None if half_life is None else half_life * DAY, alpha=1.0)
    found: dict[tuple[int, int], float] = {}
    for item, neighbour, score in swing.run(whole.part(a, b) for a, b in itertools.pairwise(cuts)):
        found.update(zip(zip(item.tolist(), neighbour.tolist(), strict=True), score.tolist(), strict=True))
    return found


def naive(users: list[History], window: int, half_life: float | None) -> dict[tuple[int, int], float]:
    found: dict[tuple[int, int], float] = {}
    for i, j in itertools.permutations(range(NUM_ITEMS), 2):
        total = 0.0
        for u, v in itertools.combinations([history for history in users if {i, j} <= set(dict(history))], 2):
            term = 1 / math.sqrt(len(u) * len(v)) / (1 + len(set(dict(u)) & set(dict(v))))
            for history in (u, v):
                place = [item for item, _ in history]
                days = abs(dict(history)[i] - dict(history)[j])
                inside = abs(place.index(i) - place.index(j)) <= window
                term *= inside * (1.0 if half_life is None else 2 ** (-days / half_life))
            total += term
        if total > 0:
            found[i, j] = total
    return found


def test_swing_of_a_worked_example():
    # 0 and 1 are shared by users {0, 1}, {0, 2} and {1, 2}, who share 2, 3 and 2 items.
    users = [[(0, 0), (1, 0), (2, 0), (3, 0)], [(1, 0), (0, 0)], [(2, 0), (1, 0), (0, 0)]]
    found = scores(users)
    expected = 1 / (math.sqrt(4 * 2) * 3) + 1 / (math.sqrt(4 * 3) * 4) + 1 / (math.sqrt(2 * 3) * 3)
    assert found[0, 1] == pytest.approx(expected)
    assert found[0, 1] == pytest.approx(0.3261, abs=1e-4)
    assert found[1, 2] == found[2, 1] == pytest.approx(1 / (math.sqrt(4 * 3) * 4))
    assert (0, 3) not in found


@settings(deadline=None, max_examples=60)
@given(users=histories, pieces=st.integers(1, 4), window=st.integers(1, 6), half_life=st.sampled_from([None, 5.0]))
def test_swing_is_that_of_the_loops_over_users_however_the_rows_are_cut(users, pieces, window, half_life):
    assert scores(users, pieces, window, half_life) == pytest.approx(naive(users, window, half_life))


def test_the_strongest_come_first_ties_by_the_lower_neighbour():
    item, neighbour = np.array([1, 0, 0, 0, 1]), np.array([4, 3, 2, 5, 6])
    score = np.array([1.0, 2.0, 2.0, 3.0, 1e-60])
    kept = top(item, neighbour, score, 2)
    assert list(zip(item[kept].tolist(), neighbour[kept].tolist(), strict=True)) == [(0, 5), (0, 2), (1, 4)]


def test_the_graph_in_spark_takes_the_latest_distinct_items_and_divides_by_popularity(spark):
    # User 0 took item 3 long ago and item 0 twice: the cap of three leaves 2, 1 and the later 0.
    rows = [(0, 3), (0, 0), (0, 0), (0, 1), (0, 2), (1, 1), (1, 0), (2, 2), (2, 1), (2, 0)]
    events = spark.createDataFrame(interactions([(user, item, day, "train") for day, (user, item) in enumerate(rows)]).to_pandas())
    config = build(GraphConfig, {"weight": "swing", "half_life_days": None, "swing": {"max_history": 3}})
    count = np.array([4.0, 3.0, 2.0, 1.0])
    found = {(row["item_idx"], row["neighbour_idx"]): row["score"] for row in swing_graph(events, 4, config, lambda: count, 0).collect()}
    close = 1 / math.sqrt(3 * 2) / (1 + 2)
    swing = {(0, 1): 2 * close + 1 / 3 / (1 + 3), (0, 2): 1 / 3 / (1 + 3), (1, 2): 1 / 3 / (1 + 3)}
    expected = {(i, j): score / (math.sqrt(count[i] * count[j]) + 5) for (i, j), score in swing.items()}
    assert found == pytest.approx(expected | {(j, i): score for (i, j), score in expected.items()})
