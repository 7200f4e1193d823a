"""Exposures before the positive: never later ones, never what the user chose, padded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

from esans import columns as c
from esans.errors import ConfigError
from esans.shards.stage import Shards
from tests.features.helpers import run_stage
from tests.shards.bundles import prepare_bundle

COUNT, ITEMS = 3, 12


def events(users: int = 12) -> tuple[list[tuple[int, int, int, str]], list[tuple[int, int, int]]]:
    """Positives in time order, the last one a test, and exposures at the same few times, before, between and after them."""
    random = np.random.default_rng(0)
    positives, exposures = [], []
    for user in range(users):
        items = random.permutation(ITEMS)[:5]
        times = np.sort(random.choice(20, 5, replace=False))
        positives += [
            (user, int(item), int(time), c.TEST if place == 4 else c.TRAIN)
            for place, (item, time) in enumerate(zip(items, times, strict=True))
        ]
        shown = zip(random.integers(0, ITEMS, 15), random.integers(0, 25, 15), strict=True)
        exposures += [(user, int(item), int(time)) for item, time in shown if user]
    return positives, exposures


def naive(positives: list[tuple[int, int, int, str]], exposures: list[tuple[int, int, int]], user: int, time: int) -> list[set[int]]:
    """Items shown before `time` that the user never chose in train, by the time they were last shown, latest first."""
    chosen = {item for owner, item, _, split in positives if owner == user and split == c.TRAIN}
    last: dict[int, int] = {}
    for owner, item, when in exposures:
        if owner == user and when < time and item not in chosen:
            last[item] = max(last.get(item, -1), when)
    return [{item for item, when in last.items() if when == moment} for moment in sorted(set(last.values()), reverse=True)]


def test_exposures_are_the_latest_before_the_positive_and_nothing_later(tmp_path: Path, spark: SparkSession) -> None:
    positives, exposures = events()
    shards = run_stage(
        Shards, tmp_path, {"prepare": prepare_bundle(tmp_path, positives, exposures, ITEMS)}, history_length=4, exposures=COUNT
    )
    assert shards.facts["columns"] == {c.EXPOSED: [COUNT]}
    rows = shards.table("examples").arrow().to_pylist()
    assert len(rows) == 12 * 3, "each user's first positive has no history"
    full = 0
    for row in rows:
        groups = naive(positives, exposures, row[c.USER_IDX], row[c.TIMESTAMP])
        found = [item for item in row[c.EXPOSED] if item != c.PADDING]
        assert len(row[c.EXPOSED]) == COUNT
        assert row[c.EXPOSED] == [c.PADDING] * (COUNT - len(found)) + found
        assert len(found) == min(COUNT, sum(map(len, groups)))
        latest_first = found[::-1]
        # Items last shown at one moment come in any order.
        for group in groups:
            part, latest_first = latest_first[: len(group)], latest_first[len(group) :]
            assert set(part) <= group
        full += len(found) == COUNT
    assert 0 < full < len(rows)
    assert shards.figures["exposures_per_example"] == np.mean([sum(item != c.PADDING for item in row[c.EXPOSED]) for row in rows])


def test_a_long_past_is_bounded_and_an_item_shown_again_and_again_takes_one_place(tmp_path: Path, spark: SparkSession) -> None:
    positives = [(0, 0, 1, c.TRAIN), (0, 1, 1000, c.TRAIN), (1, 0, 5, c.TRAIN), (1, 1, 6, c.TRAIN)]
    exposures = [(0, 2 + time % 50, time) for time in range(2, 900)] + [(0, 60, time) for time in range(990, 1001)]
    prepare = prepare_bundle(tmp_path, positives, exposures, 70)
    shards = run_stage(Shards, tmp_path, {"prepare": prepare}, history_length=2, exposures=5)
    rows = {row[c.USER_IDX]: row[c.EXPOSED] for row in shards.table("examples").arrow().to_pylist()}
    assert rows[0] == [2 + time % 50 for time in (896, 897, 898, 899)] + [60]
    assert rows[1] == [c.PADDING] * 5


def test_exposures_that_prepare_did_not_keep_are_asked_for_by_name(tmp_path: Path, spark: SparkSession) -> None:
    positives, _ = events()
    with pytest.raises(ConfigError) as error:
        run_stage(Shards, tmp_path, {"prepare": prepare_bundle(tmp_path, positives, None, ITEMS)}, exposures=COUNT)
    assert str(error.value) == "shards.exposures needs events that only showed an item: name their types in prepare.events.exposures."
