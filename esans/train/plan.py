"""Which examples each rank sees in an epoch, and in which order (contracts 5 and 7).

The files of an epoch are put in a seeded order and cut into windows of a few files; the rows of a window are permuted.
That gives one stream of rows, the same for any world size. Ranks take equal stretches of what is left of the stream,
padded with examples of weight 0 so that all have the same number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Interval = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """Files whose rows are permuted together, and where they stand in the stream."""

    files: tuple[int, ...]
    start: int
    rows: int
    seed: tuple[int, ...]

    def permutation(self) -> np.ndarray:
        """Order in which the window's rows enter the stream: (rows,) int64."""
        return np.random.default_rng(self.seed).permutation(self.rows)


class EpochPlan:
    """The stream of one epoch."""

    def __init__(self, file_rows: Sequence[int], window_files: int, seed: int, epoch: int) -> None:
        order = np.random.default_rng((seed, epoch)).permutation(len(file_rows))
        self.windows: list[Window] = []
        start = 0
        for first in range(0, len(order), window_files):
            files = tuple(int(place) for place in order[first : first + window_files])
            rows = sum(file_rows[place] for place in files)
            self.windows.append(Window(files, start, rows, (seed, epoch, first)))
            start += rows
        self.rows = start

    def whole(self) -> list[Interval]:
        """The intervals of an epoch that has not begun."""
        return [(0, self.rows)]


def split(intervals: Sequence[Interval], rank: int, world_size: int) -> list[Interval]:
    """The part of `rank`: equal stretches of the rows in `intervals`, the first ranks one row longer where it does not divide."""
    total = sum(stop - start for start, stop in intervals)
    low, high = total * rank // world_size, total * (rank + 1) // world_size
    return _cut(intervals, low, high)


def remaining(intervals: Sequence[Interval], steps: int, rank_batch: int, world_size: int) -> list[Interval]:
    """What is left after every rank has yielded `steps` batches of `rank_batch` rows: splits again over any world size.

    Over the same world size it gives every rank the rest of its own part, so that a resumed run sees the same batches.
    Touching intervals are joined, so that the list stays short: at most one interval a rank and interruption.
    """
    left: list[Interval] = []
    for rank in range(world_size):
        part = split(intervals, rank, world_size)
        left += _cut(part, steps * rank_batch, sum(stop - start for start, stop in part))
    return _joined(left)


def _joined(intervals: Sequence[Interval]) -> list[Interval]:
    joined: list[Interval] = []
    for start, stop in intervals:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return joined


def steps_per_epoch(intervals: Sequence[Interval], rank_batch: int, world_size: int) -> int:
    """Steps that every rank takes: enough for the longest part."""
    longest = max(sum(stop - start for start, stop in split(intervals, rank, world_size)) for rank in range(world_size))
    return math.ceil(longest / rank_batch)


def _cut(intervals: Sequence[Interval], low: int, high: int) -> list[Interval]:
    """Rows `low` .. `high` of the concatenated intervals."""
    kept: list[Interval] = []
    passed = 0
    for start, stop in intervals:
        size = stop - start
        first, last = max(low - passed, 0), min(high - passed, size)
        if first < last:
            kept.append((start + first, start + last))
        passed += size
    return kept
