"""The record of steps counts what the last weights lost and used twice, and nothing that a kill threw away."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from esans.negatives.base import Batch
from esans.train.lineage import BrokenRecord, StepRecord, digests, lineage, lost_and_repeated, read


def batch(users: list[int]) -> Batch:
    column = torch.tensor(users)
    history = column[:, None].expand(-1, 3)
    # User 0 fills the batch.
    return Batch(user_idx=column, history=history, target=column + 7, weight=(column != 0).float(), known=history)


def start(folder: Path, resumed_from: int, steps: dict[int, list[int]], rank: int = 0, world_size: int = 1) -> None:
    record = StepRecord(str(folder), rank, world_size, resumed_from)
    for step, users in steps.items():
        record(batch(users), 0, step - 1, step)


def expected(*users: int):
    one = batch(list(users))
    return digests(one.user_idx, one.target, one.history, one.weight)


def test_steps_that_a_kill_threw_away_do_not_count(tmp_path):
    start(tmp_path, 0, {1: [1, 2], 2: [3, 4], 3: [5, 6]})
    start(tmp_path, 1, {2: [3, 4], 3: [5, 6], 4: [7, 0]})
    found = read(str(tmp_path))
    assert [step for step, _ in lineage(found, 4)] == [1, 2, 3, 4]
    assert lost_and_repeated(found, 4, expected(1, 2, 3, 4, 5, 6, 7)) == (0, 0)


def test_an_example_that_is_skipped_or_used_twice_counts(tmp_path):
    start(tmp_path, 0, {1: [1, 2], 2: [3, 4], 3: [5, 6]})
    # Went on from step 2, but read on from step 3 and took user 2 again.
    start(tmp_path, 2, {3: [7, 2]})
    assert lost_and_repeated(read(str(tmp_path)), 3, expected(1, 2, 3, 4, 5, 6, 7)) == (2, 1)


def test_parts_of_all_ranks_and_of_another_world_size_after_a_restart_are_put_together(tmp_path):
    start(tmp_path, 0, {1: [1, 2], 2: [3, 4]}, rank=0, world_size=2)
    start(tmp_path, 0, {1: [5, 6], 2: [7, 8], 3: [9, 10]}, rank=1, world_size=2)
    start(tmp_path, 1, {2: [3, 4, 7, 8]})
    assert lost_and_repeated(read(str(tmp_path)), 2, expected(*range(1, 9))) == (0, 0)


def test_a_record_with_a_gap_is_refused(tmp_path):
    start(tmp_path, 0, {1: [1]})
    start(tmp_path, 3, {4: [2]})
    with pytest.raises(BrokenRecord, match="no start of rank 0 did step 3"):
        lineage(read(str(tmp_path)), 4)


def test_a_step_that_was_cut_short_is_left_out(tmp_path):
    start(tmp_path, 0, {1: [1, 2], 2: [3, 4]})
    (file,) = (tmp_path / "steps").iterdir()
    file.write_bytes(file.read_bytes()[:-3])
    (found,) = read(str(tmp_path))
    assert list(found.steps) == [1]
