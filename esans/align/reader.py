"""Feature vectors as windows of items: bounded memory, the same windows for any number of ranks and however the table is cut into files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from esans.columns import ITEM_IDX
from esans.errors import BundleError
from esans.hashing import GOLDEN, salted
from esans.petastorm_reader import read_vectors
from esans.table import Table


@dataclass(frozen=True)
class Rows:
    """Some items with their vectors."""

    item: np.ndarray
    """(n,) int64."""
    vectors: list[np.ndarray]
    """One (n, d_m) float32 per modality; a row of zeros where it is missing."""
    present: np.ndarray
    """(n, M) bool: which of those rows mean something."""

    def __len__(self) -> int:
        return len(self.item)

    def take(self, places: np.ndarray | slice) -> Rows:
        """Some rows: (k,) int, (n,) bool, or a slice, which copies nothing."""
        return Rows(self.item[places], [vectors[places] for vectors in self.vectors], self.present[places])


def concatenate(parts: Sequence[Rows]) -> Rows:
    """Rows of several parts, in order."""
    return Rows(
        np.concatenate([part.item for part in parts]),
        [np.concatenate(vectors) for vectors in zip(*(part.vectors for part in parts), strict=True)],
        np.concatenate([part.present for part in parts]),
    )


@dataclass(frozen=True)
class Window:
    """A stretch of the table, and the rows of it that this rank has read."""

    size: int
    """Rows of the window over all ranks."""
    place: np.ndarray
    """(n,) int64: where this rank's rows stand in the window, ascending."""
    rows: Rows
    """(n,) the rows themselves."""


class Places:
    """Where the rows of some files stand in the stream, handed out as they are read."""

    def __init__(self, first: np.ndarray, count: np.ndarray) -> None:
        self._stretches = [(int(start), int(start + rows)) for start, rows in zip(first, count, strict=True)]
        self._file = self._done = 0

    def take(self, rows: int, uri: str) -> np.ndarray:
        """(rows,) int64, the next places. Raises BundleError where the files hold more rows than the manifest says."""
        parts = [np.empty(0, np.int64)]
        while rows:
            if self._file == len(self._stretches):
                raise BundleError(f"{uri}: its files hold more rows than its manifest says. Run its stage again.")
            start, stop = self._stretches[self._file]
            taken = min(rows, stop - start - self._done)
            parts.append(np.arange(start + self._done, start + self._done + taken))
            rows, self._done = rows - taken, self._done + taken
            if start + self._done == stop:
                self._file, self._done = self._file + 1, 0
        return np.concatenate(parts)


class Reader:
    """Windows of exactly `window` items (the last may be shorter); a table of one window is read once.

    Files are dealt to the ranks in turn, and a rank reads its own only; every rank gets every window, with its own rows of it.
    Memory: two windows at most, window x sum(d_m) x 4 bytes each, and three row groups.
    """

    def __init__(self, table: Table, modalities: dict[str, int], window: int, rank: int = 0, world_size: int = 1) -> None:
        self._table, self.modalities, self._window = table, modalities, window
        self._rank, self._world_size = rank, world_size
        self._whole: Window | None = None
        self.num_items = table.rows
        self.num_windows = max(1, -(-table.rows // window))

    def windows(self, seed: Sequence[int] | None = None) -> Iterator[Window]:
        """Every item of the table once; `seed` puts the files of a table of several windows in another order."""
        if self._whole is not None:
            yield self._whole
            return
        stream, left = self._own_rows(seed if self.num_windows > 1 else None), None
        for start in range(0, self.num_items, self._window):
            stop = min(start + self._window, self.num_items)
            places, parts = [np.empty(0, np.int64)], [self._no_rows()]
            while left := left or next(stream, None):
                place, rows = left
                cut = int(np.searchsorted(place, stop))
                places.append(place[:cut] - start)
                parts.append(rows.take(slice(0, cut)))
                left = (place[cut:], rows.take(slice(cut, None))) if cut < len(place) else None
                if left:
                    break
            window = Window(stop - start, np.concatenate(places), concatenate(parts))
            if self.num_windows == 1:
                self._whole = window
            yield window

    def _own_rows(self, seed: Sequence[int] | None) -> Iterator[tuple[np.ndarray, Rows]]:
        """Stretches of this rank's rows, with their places in the whole stream."""
        count = np.array([file.rows for file in self._table.files], np.int64)
        order = np.arange(len(count)) if seed is None else np.random.default_rng([*seed]).permutation(len(count))
        order = order[count[order] > 0]
        first = np.cumsum(count[order]) - count[order]
        own = slice(self._rank, None, self._world_size)
        ahead = Places(first[own], count[order[own]])
        for item, vectors, present in read_vectors([self._table.file_uris[file] for file in order[own]], ITEM_IDX, self.modalities):
            yield ahead.take(len(item), self._table.uri), Rows(item, vectors, present)

    def _no_rows(self) -> Rows:
        nothing = [np.empty((0, dim), np.float32) for dim in self.modalities.values()]
        return Rows(np.empty(0, np.int64), nothing, np.empty((0, len(nothing)), bool))


def held_out(item: np.ndarray, share: float, seed: int) -> np.ndarray:
    """(n,) bool: a fixed pseudo-random `share` of items, by a hash of their index, so that no list is kept."""
    return salted(item, (seed + 1) * GOLDEN) < np.uint64(min(int(share * (2**64 - 1)), 2**64 - 1))
