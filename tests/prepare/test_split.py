"""Laws of the splits: nothing leaks, nothing is seen twice, and ties follow no id."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esans.config import build
from esans.prepare.config import SplitConfig
from esans.prepare.histories import histories
from esans.prepare.split import cut_times, split, with_ties

DAY = 86_400
SCHEMA = "user_id string, item_id string, timestamp long, event string, order_id string, weight float, user_idx long, item_idx long"
METHODS = [
    {"method": "last_out"},
    {"method": "last_out", "min_items": 4},
    {"method": "last_basket"},
    {"method": "global_time", "validation_from": 0.5, "test_from": 0.75},
    {"method": "last_days", "validation_days": 1, "test_days": 2},
]


def frame(spark, events):
    """Events (user, item, time, order) with indices equal to the ids."""
    data = [(f"u{u}", f"i{i}", t, None, f"o{o}", 1.0, u, i) for u, i, t, o in events]
    return with_ties(spark.createDataFrame(data, SCHEMA), 0)


# Many users at once: a Spark job costs the same for one and for twenty, and each user is a case of their own.
events = st.lists(st.tuples(st.integers(0, 19), st.integers(0, 5), st.integers(1, 6), st.integers(0, 5)), min_size=100, max_size=200)


@pytest.mark.parametrize("deduplicate", ["first", "last", "none"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: "-".join(str(value) for value in method.values()))
@settings(max_examples=1, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=events)
def test_train_precedes_validation_precedes_test_and_targets_are_never_seen(spark, method, deduplicate, events):
    # One basket has one time here, so that order in baskets is order in time.
    if method["method"] == "last_basket":
        events = [(u, i, o + 1, o) for u, i, _, o in events]
    if method["method"] == "last_days":
        events = [(u, i, t * DAY + o, o) for u, i, t, o in events]
    rows = split(frame(spark, events), build(SplitConfig, method), deduplicate).persist()
    by_user = defaultdict(list)
    for row in rows.collect():
        by_user[row["user_idx"]].append(row)
    for found in by_user.values():
        found.sort(key=lambda row: row["position"])
        assert [row["position"] for row in found] == list(range(len(found)))
        assert [row["part"] for row in found] == sorted(row["part"] for row in found)
        assert [row["timestamp"] for row in found] == sorted(row["timestamp"] for row in found)
    pairs = [(row["user_idx"], row["item_idx"]) for found in by_user.values() for row in found]
    assert set(pairs) == {(u, i) for u, i, *_ in events}
    if deduplicate == "first" or (deduplicate == "last" and method["method"] == "last_out"):
        assert len(pairs) == len(set(pairs))
    for row in histories(rows, max_history=3).collect():
        mine = by_user[row["user_idx"]]
        part = {"validation": 1, "test": 2, "serve": 3}[row["split"]]
        before = [other["item_idx"] for other in mine if other["part"] < part]
        assert row["history"] == before[-3:]
        assert sorted(row["seen"]) == sorted(set(before))
        assert not set(row["targets"]) & set(before)
        assert len(row["targets"]) == len(set(row["targets"]))
        naive = {other["item_idx"] for other in mine if other["part"] == part and other["is_target"]}
        assert set(row["targets"]) == naive
        assert bool(naive) == (part < 3)
    rows.unpersist()


def test_leave_last_out_under_ties_chooses_items_independently_of_their_id(spark):
    # 600 users, each with the same six items at one moment: by item id, the last would always be item 5.
    data = [(u, i, 1, 0) for u in range(600) for i in range(6)]
    rows = split(frame(spark, data), build(SplitConfig, {"method": "last_out"}), "first")
    for part in (1, 2):
        counts = {row["item_idx"]: row["count"] for row in rows.where(f"part = {part}").groupBy("item_idx").count().collect()}
        # 100 each are expected, with a standard deviation of 9; a chi-square of 5 degrees exceeds 20.5 once in a thousand.
        assert sum((counts.get(item, 0) - 100) ** 2 / 100 for item in range(6)) < 20.5


def test_another_seed_breaks_ties_another_way_and_the_same_seed_the_same_way(spark):
    data = [(f"u{u}", f"i{i}", 1, None, None, 1.0, u, i) for u in range(50) for i in range(6)]
    raw = spark.createDataFrame(data, SCHEMA)

    def test_items(seed, partitions):
        rows = split(with_ties(raw.repartition(partitions), seed), build(SplitConfig, {"method": "last_out"}), "first")
        return sorted((row["user_idx"], row["item_idx"]) for row in rows.where("part = 2").collect())

    assert test_items(1, 1) == test_items(1, 5) != test_items(2, 1)


def test_last_basket_on_a_worked_example(spark):
    rows = split(
        frame(
            spark,
            [
                # three orders: the last has an item from before (0) and two new ones; the last but one has one new item (2)
                *[(0, 0, 10, 1), (0, 1, 10, 1), (0, 2, 20, 2), (0, 1, 20, 2), (0, 0, 30, 3), (0, 3, 30, 3), (0, 4, 31, 3)],
                # two orders only: trains
                *[(1, 0, 10, 4), (1, 1, 20, 5)],
                # the last order holds nothing new: no test targets, but validation ones
                *[(2, 0, 10, 6), (2, 1, 20, 7), (2, 0, 30, 8)],
                # the ranks follow the first moment of an order: order 11 begins after order 10 and ends before it
                *[(3, 0, 5, 9), (3, 1, 10, 10), (3, 2, 25, 10), (3, 3, 20, 11)],
            ],
        ),
        build(SplitConfig, {"method": "last_basket"}),
        "first",
    )
    found = {(row["user_idx"], row["split"]): (row["history"], sorted(row["targets"])) for row in histories(rows, 200).collect()}
    tested = {key: value for key, value in found.items() if key[1] != "serve"}
    assert {key: (sorted(history), targets) for key, (history, targets) in tested.items()} == {
        (0, "validation"): ([0, 1], [2]),
        (0, "test"): ([0, 1, 2], [3, 4]),
        (2, "validation"): ([0], [1]),
        (3, "validation"): ([0], [1, 2]),
        (3, "test"): ([0, 1, 2], [3]),
    }
    assert {row["split"] for row in rows.where("user_idx = 1").collect()} == {"train"}
    assert found[2, "serve"] == ([0, 1], [])


def test_under_last_a_purchase_before_the_cut_stays_in_train_when_it_is_repeated_after_it(spark):
    rows = split(
        frame(spark, [(0, 0, 1, 0), (0, 0, 2, 0), (0, 1, 3, 0), (0, 0, 9, 0), (0, 2, 9, 0)]),
        build(SplitConfig, {"method": "global_time", "validation_from": 3, "test_from": 8}),
        "last",
    )
    found = sorted((row["item_idx"], row["timestamp"], row["split"], row["is_target"]) for row in rows.collect())
    assert found == [(0, 2, "train", False), (0, 9, "test", False), (1, 3, "validation", True), (2, 9, "test", True)]


def test_the_last_days_end_with_the_latest_day_or_where_they_are_told_to_and_first_choices_are_the_targets(spark):
    day = [(0, 0, 0), (0, 1, 1), (0, 0, 2), (0, 2, 2), (1, 0, 3), (1, 3, 3), (0, 1, 4), (0, 4, 4)]
    data = [(user, item, at * DAY + 3_600, 0) for user, item, at in day]
    config = build(SplitConfig, {"method": "last_days", "validation_days": 1, "test_days": 2})
    cut = cut_times(frame(spark, data), config)
    assert cut == (2 * DAY, 3 * DAY)
    assert cut_times(frame(spark, data), config, until=6 * DAY) == (3 * DAY, 4 * DAY)
    found = {(row["user_idx"], row["split"]): (row["history"], row["targets"]) for row in _histories(spark, data, config)}
    assert found[0, "validation"] == ([0, 1], [2])
    # User 1 has no history before the test, and item 1 of user 0 is a repeat.
    assert {key: value for key, value in found.items() if key[1] == "test"} == {(0, "test"): ([0, 1, 2], [4])}


def _histories(spark, data, config):
    return histories(split(frame(spark, data), config, "first"), 200).collect()


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(times=st.lists(st.integers(1, 10**10), min_size=2, max_size=30), first=st.floats(0.05, 0.5), second=st.floats(0.55, 0.95))
def test_a_share_cuts_at_the_exact_quantile(spark, times, first, second):
    rows = spark.createDataFrame([(t,) for t in times], "timestamp long")
    config = build(SplitConfig, {"method": "global_time", "validation_from": first, "test_from": second})
    ordered = sorted(times)
    assert cut_times(rows, config) == (ordered[int(len(times) * first)], ordered[int(len(times) * second)])
