"""The batches of an epoch: the same items together for any number of ranks, each rank holding the rows that it read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from esans.align.ranks import Ranks
from esans.align.reader import Reader, Rows, concatenate, held_out


@dataclass(frozen=True)
class Batch:
    """One step's items."""

    rows: Rows
    """This rank's items, in batch order; there may be none."""
    whose: np.ndarray
    """(N,) int64: the rank that holds each item of the batch."""

    def __len__(self) -> int:
        return len(self.whose)


@dataclass(frozen=True)
class Draw:
    """Which items are trained on, and in what company."""

    fewest: int
    """Modalities that an item must have."""
    validation_share: float
    """Share of items that is held out."""
    batch_size: int
    """Items per step over all ranks."""
    seed: int

    def epoch(self, reader: Reader, ranks: Ranks, epoch: int) -> Iterator[Batch]:
        """Windows in the order of the epoch, shuffled by (seed, epoch, window).

        The ranks tell each other which rows of a window are trained on, 4 bytes a row, so that all of them know the whole
        permutation: every rank takes the same number of steps, and a batch holds the same items as one process would put there.
        The last batch of a window may be smaller.
        """
        for number, window in enumerate(reader.windows((self.seed, epoch))):
            rows = window.rows
            wanted = (rows.present.sum(1) >= self.fewest) & ~held_out(rows.item, self.validation_share, self.seed)
            owner, own = np.zeros(window.size, np.int32), np.full(window.size, -1, np.int64)
            owner[window.place[wanted]] = ranks.rank + 1
            own[window.place] = np.arange(len(rows))
            owner = ranks.sum(owner)
            order = np.flatnonzero(owner)
            np.random.default_rng([self.seed, epoch, number]).shuffle(order)
            for start in range(0, len(order), self.batch_size):
                places = order[start : start + self.batch_size]
                whose = owner[places].astype(np.int64) - 1
                yield Batch(rows.take(own[places[whose == ranks.rank]]), whose)


@dataclass(frozen=True)
class HeldOut:
    """Items that no step sees."""

    rows: Rows | None
    """On rank 0: those with two modalities or more, by item_idx; None on the other ranks."""
    assigned: int
    """Items of the whole table that have a vector, over all ranks."""


def hold_out(reader: Reader, ranks: Ranks, share: float, seed: int) -> HeldOut:
    """One pass over the table: count what has a vector, and bring the held-out items to rank 0, about max_validation_items at most."""
    parts, assigned = [], 0
    for window in reader.windows():
        rows = window.rows
        assigned += int(rows.present.any(1).sum())
        parts.append(rows.take(np.flatnonzero((rows.present.sum(1) >= 2) & held_out(rows.item, share, seed))))
    total = int(ranks.sum(np.array([assigned]))[0])
    collected = [part for part in ranks.collect(concatenate(parts) if parts else None) if part is not None]
    if not collected:
        return HeldOut(None, total)
    together = concatenate(collected)
    return HeldOut(together.take(np.argsort(together.item)), total)
