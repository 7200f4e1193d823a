"""The rule for a full run: each reason alone suffices, and none of them means incremental."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esans.config import build
from esans.retrain.rules import FullConfig, changed_keys, full_or_incremental, overrides

RULE = build(FullConfig, {"every_days": 7, "max_new_items": 0.2, "max_moved": 0.5})
CALM: dict[str, Any] = {"days_since_full": 3, "new_items": 0.01, "moved": 0.1, "changed": []}


@pytest.mark.parametrize(
    ("over", "reason"),
    [
        ({"days_since_full": None}, "there is no model to go on from"),
        ({"days_since_full": 7}, "7 days since the last full run, retrain.full.every_days = 7"),
        ({"new_items": 0.25}, "25.0% of the items are new, retrain.full.max_new_items = 20%"),
        ({"moved": 0.6}, "60.0% of the items left their cluster, retrain.full.max_moved = 50%"),
        ({"changed": list("abcde")}, "the configuration changed: a, b, c and 2 more"),
    ],
)
def test_one_reason_is_enough_for_a_full_run_and_is_said(over: dict[str, Any], reason: str) -> None:
    decision = full_or_incremental(RULE, **{**CALM, **over})
    assert (decision.kind, decision.reason) == ("full", reason)


@given(days=st.integers(0, 6), new=st.floats(0, 0.2), moved=st.none() | st.floats(0, 0.5))
def test_within_all_bounds_a_day_is_incremental(days: int, new: float, moved: float | None) -> None:
    assert full_or_incremental(RULE, days_since_full=days, new_items=new, moved=moved).kind == "incremental"


def test_keys_that_move_every_day_are_no_change_and_others_are_named() -> None:
    before = {"prepare": {"until": "2011-11-01", "filters": {"min_item_users": 1}}, "train": {"warm_start": None, "batch_size": 1024}}
    now = {"prepare": {"until": "2011-11-02", "filters": {"min_item_users": 2}}, "train": {"warm_start": "x", "batch_size": 512}}
    assert changed_keys(before, now) == ["prepare.filters.min_item_users", "train.batch_size"]
    assert changed_keys(before, {**now, "shards": {"history_length": 5}}) == ["prepare.filters.min_item_users", "train.batch_size"]


def test_a_full_run_keeps_numbers_and_an_incremental_one_spaces_and_weights() -> None:
    bundles = {stage: f"file:///{stage}" for stage in ("prepare", "features", "align", "cluster", "shards", "train")}
    full, more = overrides("full", bundles), overrides("incremental", bundles)
    assert set(full) == {"prepare.previous", "features.previous", "cluster.previous"}
    assert full.items() <= more.items()
    assert more["train.warm_start"] == "file:///train"
    assert more["align.previous_mode"] == "frozen"
    # A full run reads the whole raw table again, so that rows which came late, or whose item came late, get in.
    assert more["prepare.log.extend"] is True
