"""Rows of the files of a window, taken from where each file lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from esans.petastorm_reader import Columns


class WindowRows:
    """Files addressed as if their rows lay one after the other; putting them together first would be a pass over all of them.

    Args:
        parts: the columns of each file. A file of one row stands for as many rows as `sizes` has for it: all are that row.
        sizes: rows of each file.
        bad: places of files that could not be read, whose part stands in for them.
    """

    def __init__(self, parts: Sequence[Columns], sizes: Sequence[int], bad: Sequence[int] = ()) -> None:
        self.parts, self.bad = parts, bad
        self.stops = np.cumsum(sizes)
        self.starts = self.stops - np.asarray(sizes)

    def take(self, rows: np.ndarray, into: Mapping[str, np.ndarray]) -> None:
        """Write rows to the arrays of `into`, by column, in the order of `rows` and in the arrays' types.

        Args:
            rows: (n,) int64, each below the sum of `sizes`.
            into: (n, ...) arrays.
        """
        part_n = np.searchsorted(self.stops, rows, side="right")
        for place, columns in enumerate(self.parts):
            at = np.flatnonzero(part_n == place)
            if not len(at):
                continue
            own = rows[at] - self.starts[place]
            for name, target in into.items():
                # "clip" is what lets one row stand for many.
                target[at] = columns[name].take(own, axis=0, mode="clip")

    def stand_ins(self, rows: np.ndarray) -> np.ndarray:
        """(n,) bool: which of (n,) rows are of files that could not be read."""
        found = np.zeros(len(rows), bool)
        for place in self.bad:
            found |= (rows >= self.starts[place]) & (rows < self.stops[place])
        return found

    def shapes(self) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        """Type of each column, and the shape of one row's value."""
        return {name: (values.dtype, values.shape[1:]) for name, values in self.parts[0].items()}
