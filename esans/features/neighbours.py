"""The strongest neighbours of every item, from counted pairs that arrive in packs: numpy, a bounded part of the items at a time.

Pairs travel through Spark's shuffle as packs, one row for some thousand pairs, since a row of its own for each pair costs
ten times what its sixteen bytes do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from esans.features.pairs import UNIT, add_up

# Bytes of a pair in a pack: two int32 items and an int64 weight.
PAIR_BYTES = 16
# Pairs of a partition that are held before repeats are added up.
_PENDING = 8_000_000


def pack(left: np.ndarray, right: np.ndarray, weight: np.ndarray, buckets: int) -> Iterator[tuple[int, bytes]]:
    """Every pair in both directions, as (bucket of the first item, pack), each bucket at most once.

    Args:
        left, right: (n,) int64 items, below 2^31.
        weight: (n,) int64.
        buckets: at most 65,536.
    """
    item, other = (np.concatenate(ends).astype(np.int32) for ends in ((left, right), (right, left)))
    bucket = (item % buckets).astype(np.uint16)
    # Sixteen bits are sorted by radix, in one pass.
    order = np.argsort(bucket, kind="stable")
    item, other, weight = item[order], other[order], np.concatenate([weight, weight])[order]
    edges = np.concatenate([[0], np.cumsum(np.bincount(bucket, minlength=buckets))])
    for number in np.flatnonzero(np.diff(edges)).tolist():
        part = slice(edges[number], edges[number + 1])
        yield number, item[part].tobytes() + other[part].tobytes() + weight[part].tobytes()


def unpack(packed: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(item int32, other int32, weight int64) of a pack."""
    count = len(packed) // PAIR_BYTES
    item, other = np.frombuffer(packed, np.int32, 2 * count).reshape(2, count)
    return item, other, np.frombuffer(packed, np.int64, count, offset=8 * count)


@dataclass
class Strongest:
    """Adds up packs of whole items and keeps the best `neighbours` of each."""

    num_items: int
    count: np.ndarray
    """(num_items,) train events per item."""
    exponent: float
    shrinkage: float
    neighbours: int
    _keys: list[np.ndarray] = field(default_factory=list)
    _weights: list[np.ndarray] = field(default_factory=list)
    _held: int = 0

    def run(self, packs: Iterable[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(item, neighbour, float32 score): by item, the strongest first, ties by the smaller neighbour."""
        for packed in packs:
            item, other, weight = unpack(packed)
            self._keys.append(item.astype(np.int64) * self.num_items + other)
            self._weights.append(weight)
            self._held += len(weight)
            if self._held > _PENDING:
                key, total = add_up(self._keys, self._weights)
                # What cannot be added up any further must not be added up again and again.
                self._keys, self._weights, self._held = [key], [total], min(len(key), _PENDING // 2)
        if not self._keys:
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
        key, total = add_up(self._keys, self._weights)
        return self._best(key // self.num_items, key % self.num_items, total)

    def _best(self, item: np.ndarray, other: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        divisor = (self.count[item] * self.count[other]) ** self.exponent + self.shrinkage
        score = (weight / float(UNIT) / divisor).astype(np.float32)
        first = np.concatenate([[True], item[1:] != item[:-1]])
        group = np.cumsum(first) - 1
        # Bits of positive floats rise with the float, so one sort of whole numbers orders by item, then by falling score.
        falling = np.uint32(0xFFFFFFFF) - score.view(np.uint32)
        order = np.argsort((group.astype(np.uint64) << np.uint64(32)) | falling, kind="stable")
        place = np.arange(len(item)) - np.flatnonzero(first)[group]
        kept = order[place < self.neighbours]
        return item[kept], other[kept], score[kept]
