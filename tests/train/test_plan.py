"""Every example once, whatever the number of files, the window, the world size and the moment of a kill."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from esans.train.plan import EpochPlan, remaining, split, steps_per_epoch

files = st.lists(st.integers(1, 40), min_size=1, max_size=8)


def rows_of(intervals: list[tuple[int, int]]) -> list[int]:
    return [row for start, stop in intervals for row in range(start, stop)]


@given(files, st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_ranks_share_the_stream_without_gap_or_overlap_and_take_the_same_number_of_steps(
    sizes: list[int], window: int, world: int, seed: int
) -> None:
    plan = EpochPlan(sizes, window, seed, epoch=3)
    assert plan.rows == sum(sizes)
    parts = [rows_of(split(plan.whole(), rank, world)) for rank in range(world)]
    assert sorted(row for part in parts for row in part) == list(range(plan.rows))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    steps = steps_per_epoch(plan.whole(), 7, world)
    assert all((steps - 1) * 7 < max(map(len, parts)) <= steps * 7 for _ in parts)


@given(files, st.integers(1, 4), st.integers(0, 99), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_windows_cover_every_row_of_every_file_once_in_an_order_that_the_epoch_changes(
    sizes: list[int], window: int, seed: int, epoch: int
) -> None:
    plan = EpochPlan(sizes, window, seed, epoch)
    seen = []
    for part in plan.windows:
        rows = [(file, row) for file in part.files for row in range(sizes[file])]
        seen += [rows[place] for place in part.permutation()]
    assert sorted(seen) == [(file, row) for file in range(len(sizes)) for row in range(sizes[file])]
    again = EpochPlan(sizes, window, seed, epoch)
    assert all(np.array_equal(one.permutation(), two.permutation()) for one, two in zip(plan.windows, again.windows, strict=True))


@given(files, st.integers(1, 4), st.integers(1, 4), st.integers(1, 9), st.integers(0, 6))
@settings(max_examples=80, deadline=None)
def test_after_a_kill_the_rest_is_what_was_not_yielded_and_splits_over_another_world(
    sizes: list[int], world: int, other_world: int, batch: int, steps: int
) -> None:
    plan = EpochPlan(sizes, 2, 0, 0)
    yielded = [row for rank in range(world) for row in rows_of(split(plan.whole(), rank, world))[: steps * batch]]
    left = remaining(plan.whole(), steps, batch, world)
    resumed = [row for rank in range(other_world) for row in rows_of(split(left, rank, other_world))]
    assert sorted(yielded + resumed) == list(range(plan.rows))


def test_two_epochs_and_two_seeds_differ() -> None:
    orders = {tuple(window.files for window in EpochPlan([5] * 20, 2, seed, epoch).windows) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4
