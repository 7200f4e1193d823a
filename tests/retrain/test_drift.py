"""Which days are refused, and how the message names table, column, value and bound."""

from __future__ import annotations

import copy
import datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esans.retrain.config import DriftConfig
from esans.retrain.drift import Finding, empty_by_nature, findings, is_empty, psi

DAY = datetime.date(2026, 11, 20)  # a Friday
COUNTS = st.lists(st.integers(0, 1000), min_size=10, max_size=10)


def entry(**over: Any) -> dict[str, Any]:
    usual = {"rows": 1000, "users": 100, "items": 200, "new_users": 10, "new_items": 5, "duplicates": 10, "unknown_items": 2}
    return {**usual, "nulls": {"user_id": 0, "price": 30}, **over}


def profile(**today: Any) -> dict[str, Any]:
    days = {str(DAY - datetime.timedelta(days=back)): entry() for back in range(1, 29) if back % 7 != 6}
    days[str(DAY)] = entry(**today)
    even = {"edges": [1.0, 2.0], "reference": [9000, 9000, 9000], "day": [300, 350, 350]}
    return {
        "interactions": {"days": days, "unreadable_times": 3, "distributions": {"price": even}},
        "items": {
            "rows": 5000,
            "duplicates": 0,
            "nulls": {"title": 50},
            "distributions": {"norm of text": {"edges": [0.9], "counts": [100, 4900]}},
        },
    }


def refused(found: dict[str, Any], earlier: dict[str, Any] | None = None) -> list[Finding]:
    return [one for one in findings(found, earlier, DriftConfig(), DAY) if one.passed is False]


def test_a_usual_day_passes_every_check() -> None:
    checked = findings(profile(), profile(), DriftConfig(), DAY)
    assert {one.passed for one in checked} == {True}
    assert {one.table for one in checked} == {"interactions", "items"}


@pytest.mark.parametrize(
    ("today", "key", "words"),
    [
        (
            {"rows": 200, "duplicates": 2, "nulls": {"user_id": 0, "price": 6}},
            "min_rows_ratio",
            "rows of the day (200) / mean of 24 days (1,000) = 0.2, allowed 0.3 .. 3",
        ),
        ({"rows": 3500}, "max_rows_ratio", "= 3.5"),
        ({"new_users": 70}, "max_new_users", "share of new users = 0.7, allowed <= 0.6"),
        ({"new_items": 100}, "max_new_items", "share of new items = 0.5"),
        ({"unknown_items": 100}, "max_unknown_items", "unknown item = 0.1, allowed <= 0.05"),
        (
            {"nulls": {"user_id": 400, "price": 30}},
            "max_null_increase",
            "interactions: column 'user_id': share of nulls = 0.4, allowed <= 0.02",
        ),
        ({"duplicates": 300}, "max_duplicate_increase", "share of repeated rows = 0.3, allowed <= 0.06 (usual 0.01 + 0.05)"),
    ],
)
def test_a_broken_bound_is_named_with_table_column_value_and_key(today: dict[str, Any], key: str, words: str) -> None:
    bad = refused(profile(**today))
    assert [one.key for one in bad] == [f"retrain.drift.{key}"]
    assert words in bad[0].describe()
    assert bad[0].describe().endswith(f"(retrain.drift.{key})")


def test_a_moved_column_is_refused_and_a_day_of_few_rows_is_not_judged_by_its_distribution() -> None:
    moved = profile()
    moved["interactions"]["distributions"]["price"]["day"] = [980, 10, 10]
    assert [one.column for one in refused(moved)] == ["price"]
    moved["interactions"]["distributions"]["price"]["day"] = [98, 1, 1]
    assert not refused(moved)
    assert any(one.passed is None and "not judged" in one.what for one in findings(moved, None, DriftConfig(), DAY))


def test_the_items_table_is_held_against_that_of_the_last_published_run() -> None:
    earlier, found = profile(), profile()
    found["items"] |= {"rows": 4000, "nulls": {"title": 400}, "duplicates": 400}
    found["items"]["distributions"] = {"norm of text": {"edges": [0.9], "counts": [3000, 1000]}}
    assert {one.key.rpartition(".")[2] for one in refused(found, earlier)} == {
        "min_items_ratio",
        "max_null_increase",
        "max_duplicate_increase",
        "max_psi",
    }
    assert {one.column for one in refused(found, earlier)} == {"", "title", "norm of text"}


def test_rows_without_a_readable_time_count_where_they_are_new() -> None:
    earlier, found = profile(), profile()
    found["interactions"]["unreadable_times"] = 103
    assert [one.what for one in refused(found, earlier)] == ["new rows without a readable time / rows of the day"]
    assert not refused(found, found)


def test_a_day_is_empty_by_nature_where_its_weekday_always_was() -> None:
    found = profile()
    saturday, sunday = DAY + datetime.timedelta(days=1), DAY + datetime.timedelta(days=2)
    assert is_empty(found, saturday)
    assert empty_by_nature(found, saturday, 28)
    assert not empty_by_nature(found, sunday, 28)
    emptied = copy.deepcopy(found)
    emptied["interactions"]["days"] = {}
    assert not empty_by_nature(emptied, saturday, 28), "a table without any day tells nothing about Saturdays"
    assert not empty_by_nature(found, saturday, 6), "a reference of less than a week tells nothing about Saturdays"


@given(reference=COUNTS, day=COUNTS)
def test_the_stability_index_is_symmetric_finite_never_negative_and_0_for_the_same_shape(reference: list[int], day: list[int]) -> None:
    value = psi(reference, day)
    assert np.isfinite(value)
    assert value >= 0
    assert value == pytest.approx(psi(day, reference))
    same = [count + 1 for count in reference]
    assert psi(same, [3 * count for count in same]) == pytest.approx(0)


def test_the_stability_index_is_that_of_its_definition() -> None:
    one, two = np.array([0.2, 0.3, 0.5]), np.array([0.5, 0.3, 0.2])
    assert psi([200, 300, 500], [500, 300, 200]) == pytest.approx(((two - one) * np.log(two / one)).sum())
