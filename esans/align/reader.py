"""Feature vectors as windows of items: bounded memory, the same windows however the table is cut into files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from esans.columns import ITEM_IDX
from esans.table import Table

_ARROW_ROWS = 8_192


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

    def take(self, places: np.ndarray) -> Rows:
        """Some rows: (k,) int or (n,) bool."""
        return Rows(self.item[places], [vectors[places] for vectors in self.vectors], self.present[places])


def concatenate(parts: Sequence[Rows]) -> Rows:
    """Rows of several parts, in order."""
    return Rows(
        np.concatenate([part.item for part in parts]),
        [np.concatenate(vectors) for vectors in zip(*(part.vectors for part in parts), strict=True)],
        np.concatenate([part.present for part in parts]),
    )


class Reader:
    """Windows of exactly `window` items (the last may be shorter) in the table's order; a table of one window is read once.

    Memory: two windows at most, window x sum(d_m) x 4 bytes each.
    """

    def __init__(self, table: Table, modalities: dict[str, int], window: int) -> None:
        self._table, self.modalities, self._window = table, modalities, window
        self._whole: Rows | None = None
        self.num_items = table.rows
        self.num_windows = max(1, -(-table.rows // window))

    def windows(self) -> Iterator[Rows]:
        """Every item of the table once."""
        if self._whole is not None:
            yield self._whole
            return
        held: list[Rows] = []
        count = 0
        for batch in self._batches():
            rows = self._rows(batch)
            while count + len(rows) >= self._window:
                cut = self._window - count
                yield self._keep(concatenate([*held, rows.take(np.arange(cut))]))
                held, count, rows = [], 0, rows.take(np.arange(cut, len(rows)))
            held.append(rows)
            count += len(rows)
        if count:
            yield self._keep(concatenate(held))

    def _keep(self, rows: Rows) -> Rows:
        if self.num_windows == 1:
            self._whole = rows
        return rows

    def _batches(self) -> Iterator[pa.RecordBatch]:
        # Arrow reads ahead 16 batches of 16 files by default, which no stated bound would survive.
        scan = self._table.dataset().scanner(
            columns=[ITEM_IDX, *self.modalities], batch_size=_ARROW_ROWS, batch_readahead=2, fragment_readahead=1
        )
        yield from scan.to_batches()

    def _rows(self, batch: pa.RecordBatch) -> Rows:
        vectors, present = [], []
        for place, dim in enumerate(self.modalities.values(), 1):
            column = batch.column(place)
            valid = column.is_valid().to_numpy(zero_copy_only=False)
            dense = np.zeros((len(column), dim), np.float32)
            dense[valid] = column.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
            vectors.append(dense)
            present.append(valid)
        return Rows(batch.column(0).to_numpy(), vectors, np.stack(present, axis=1))


def held_out(item: np.ndarray, share: float, seed: int) -> np.ndarray:
    """(n,) bool: a fixed pseudo-random `share` of items, by a hash of their index (splitmix64), so that no list is kept."""
    with np.errstate(over="ignore"):
        mixed = item.astype(np.uint64) + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
    return np.asarray(mixed < np.uint64(int(share * (2**64 - 1))))
