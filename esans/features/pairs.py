"""Pairs of items that one user took near each other: the inner loop of the item graph, in numpy, one stream of rows at a time.

Memory: `_FLUSH` pairs of 16 bytes, plus one Arrow batch times the window. Work: at most max_history x window pairs a user.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

# Weights are summed as whole numbers: Spark adds in whatever order shuffles arrive, and only integers make that exact.
UNIT = 1 << 16
_FLUSH = 2_000_000


@dataclass
class PairCounter:
    """Counts pairs in rows that come ordered by (user, latest first), in pieces of any size."""

    num_items: int
    max_history: int
    window: int
    half_life_seconds: float | None
    _user: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    _item: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    _time: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    _last_user: int = -1
    _last_rank: int = -1

    def run(self, pieces: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Feed (user, item, time) pieces, get (item, later-numbered item, weight in 1 / UNIT) with repeats added up per flush."""
        keys: list[np.ndarray] = []
        weights: list[np.ndarray] = []
        held = 0
        for user, item, time in pieces:
            for key, weight in self._pairs(user, item, time):
                keys.append(key)
                weights.append(weight)
                held += len(key)
            if held >= _FLUSH:
                yield self._sum(keys, weights)
                keys, weights, held = [], [], 0
        if held:
            yield self._sum(keys, weights)

    def _pairs(self, user: np.ndarray, item: np.ndarray, time: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        keep = self._rank(user) < self.max_history
        old = len(self._user)
        user, item, time = (np.concatenate([tail, new[keep]]) for tail, new in ((self._user, user), (self._item, item), (self._time, time)))
        for gap in range(1, min(self.window, len(user) - 1) + 1):
            # Both old: that pair was counted with the piece before.
            first = max(old - gap, 0)
            a, b = slice(first, len(user) - gap), slice(first + gap, len(user))
            found = (user[a] == user[b]) & (item[a] != item[b])
            if found.any():
                left, right = item[a][found], item[b][found]
                weight = self._weight(np.abs(time[a][found] - time[b][found]))
                yield np.minimum(left, right) * self.num_items + np.maximum(left, right), weight
        self._user, self._item, self._time = user[-self.window :], item[-self.window :], time[-self.window :]

    def _rank(self, user: np.ndarray) -> np.ndarray:
        """Place of each row among its user's rows, the latest being 0, counted on from the piece before."""
        if len(user) == 0:
            return np.empty(0, np.int64)
        start = np.flatnonzero(np.concatenate([[True], user[1:] != user[:-1]]))
        rank = np.arange(len(user)) - np.repeat(start, np.diff(np.concatenate([start, [len(user)]])))
        rank[user == self._last_user] += self._last_rank + 1
        self._last_user, self._last_rank = int(user[-1]), int(rank[-1])
        return rank

    def _weight(self, apart: np.ndarray) -> np.ndarray:
        if self.half_life_seconds is None:
            return np.full(len(apart), UNIT, np.int64)
        return np.rint(np.exp2(-apart / self.half_life_seconds) * UNIT).astype(np.int64)

    def _sum(self, keys: list[np.ndarray], weights: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        key, total = add_up(keys, weights)
        key, total = key[total > 0], total[total > 0]
        return key // self.num_items, key % self.num_items, total


def add_up(keys: list[np.ndarray], weights: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Pieces of (key, weight) as rising distinct keys with their summed weights."""
    key, weight = np.concatenate(keys), np.concatenate(weights)
    # Whole numbers add up to the same in any order, so the sort need not be stable.
    order = np.argsort(key)
    key, weight = key[order], weight[order]
    first = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]])) if len(key) else np.empty(0, np.int64)
    return key[first], np.add.reduceat(weight, first) if len(key) else weight
