"""Swing weights (Yang et al. 2020, "Large Scale Product Graph Construction for Recommendation in E-commerce"), bounded.

Two items are close when users took both who otherwise have little in common:

    swing(i, j) = sum over pairs {u, v} of users of both items of
                  d_u(i, j) d_v(i, j) / (sqrt(|I_u|) sqrt(|I_v|) (alpha + |I_u and I_v|))

With d = 1 this is the published form. Here d_u is 2^(-time apart / half life) inside the user's window and 0 outside, I_u holds
the user's latest `max_history` distinct items, and i meets at most `max_users` of its users. So an item costs at most
max_users^2 x max_history products, and nothing grows faster than the number of items.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse

# Products held at a time: 12 bytes each, in two matrices.
_PRODUCTS = 4_000_000


@dataclass(frozen=True)
class Rows:
    """Users of items, sorted by item, each with the user's history."""

    item: np.ndarray
    """(n,) int64: the item that the row is about."""
    lengths: np.ndarray
    """(n,) int64: |I_u|."""
    items: np.ndarray
    """(sum of lengths,) int64: distinct items of each history, the latest first; `item` is among them."""
    times: np.ndarray
    """(sum of lengths,) int64: unix seconds."""

    def __len__(self) -> int:
        return len(self.item)

    def part(self, start: int, stop: int) -> Rows:
        """Rows start .. stop - 1."""
        first, last = int(self.lengths[:start].sum()), int(self.lengths[:stop].sum())
        return Rows(self.item[start:stop], self.lengths[start:stop], self.items[first:last], self.times[first:last])


def join(parts: list[Rows]) -> Rows:
    """Rows of several parts, in order."""
    columns = zip(*((part.item, part.lengths, part.items, part.times) for part in parts), strict=True)
    return Rows(*(np.concatenate(column) for column in columns))


@dataclass(frozen=True)
class Swing:
    """Scores of an item's neighbours, from rows in any number of pieces."""

    num_items: int
    window: int
    half_life_seconds: float | None
    alpha: float

    def run(self, pieces: Iterable[Rows]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Feed rows sorted by item, get (item, neighbour, swing) with all neighbours of an item in one result."""
        held: list[Rows] = []
        for piece in pieces:
            if not len(piece):
                continue
            held.append(piece)
            # The last item may go on in the next piece.
            if piece.item[0] != piece.item[-1] or held[0].item[0] != piece.item[0]:
                rows = join(held)
                whole = int(np.searchsorted(rows.item, rows.item[-1]))
                yield from self._in_blocks(rows.part(0, whole))
                held = [rows.part(whole, len(rows))]
        if held:
            yield from self._in_blocks(join(held))

    def _in_blocks(self, rows: Rows) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        first = np.flatnonzero(np.concatenate([[True], rows.item[1:] != rows.item[:-1]]))
        users = np.diff(np.concatenate([first, [len(rows)]]))
        products = np.cumsum(users * np.add.reduceat(rows.lengths, first))
        start = 0
        while start < len(first):
            done = products[start - 1] if start else 0
            stop = max(int(np.searchsorted(products, done + _PRODUCTS, side="right")), start + 1)
            yield self.scores(rows.part(int(first[start]), int(first[stop]) if stop < len(first) else len(rows)))
            start = stop

    def scores(self, rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(item, neighbour, swing > 0) of whole items, as sparse products: one row a (item, user), one column an (item, neighbour)."""
        row = np.repeat(np.arange(len(rows)), rows.lengths)
        keys, column = np.unique(rows.item[row] * self.num_items + rows.items, return_inverse=True)
        shape = (len(rows), len(keys))
        has = sparse.csr_matrix((np.ones(len(row)), (row, column)), shape=shape)
        # Users meet only inside one item, since the columns of two items differ.
        pairs = sparse.triu(has @ has.T, k=1).tocoo()
        own = 1 / np.sqrt(rows.lengths)
        weight = own[pairs.row] * own[pairs.col] / (self.alpha + pairs.data)
        pairs = sparse.csr_matrix((weight, (pairs.row, pairs.col)), shape=(len(rows), len(rows)))
        near = sparse.csr_matrix((self._nearness(rows, row), (row, column)), shape=shape)
        near.eliminate_zeros()
        total = np.asarray(near.multiply(pairs @ near).sum(axis=0)).ravel()
        found = total > 0
        return keys[found] // self.num_items, keys[found] % self.num_items, total[found]

    def _nearness(self, rows: Rows, row: np.ndarray) -> np.ndarray:
        """d_u of every entry: 0 at the item itself and outside the window."""
        place = np.arange(len(row)) - np.repeat(np.cumsum(rows.lengths) - rows.lengths, rows.lengths)
        self_at = np.flatnonzero(rows.items == rows.item[row])
        inside = (np.abs(place - place[self_at][row]) <= self.window) & (rows.items != rows.item[row])
        if self.half_life_seconds is None:
            return inside.astype(np.float64)
        return np.where(inside, np.exp2(-np.abs(rows.times - rows.times[self_at][row]) / self.half_life_seconds), 0.0)
