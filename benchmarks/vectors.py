"""Vectors and histories of the generated world without Spark: for benchmarks of search and evaluation."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from benchmarks.world import BLOCK, World, item_block, user_block, user_blocks


def item_vectors(world: World) -> np.ndarray:
    """(items, 128) float32 unit vectors: what the items' text shows, interests in families with noise."""
    vectors = np.concatenate([item_block(world, block).text for block in range(-(-world.items // BLOCK))])
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def events(world: World) -> tuple[np.ndarray, np.ndarray]:
    """(n,) int64 users, rising, and their items, oldest first."""
    parts = [user_block(world, block)[:2] for block in range(user_blocks(world))]
    return np.concatenate([user for user, _ in parts]), np.concatenate([item for _, item in parts])


def user_vectors(world: World, vectors: np.ndarray) -> np.ndarray:
    """(users with events, 128) float32 unit vectors: the mean of what a user chose, as a user tower without weights would have it."""
    user, item = events(world)
    starts = np.flatnonzero(np.concatenate([[True], user[1:] != user[:-1]]))
    sums = np.add.reduceat(vectors[item], starts, axis=0)
    return np.asarray(sums / np.linalg.norm(sums, axis=1, keepdims=True), np.float32)


def histories(world: World, max_history: int) -> tuple[pa.Table, np.ndarray]:
    """A `histories` table whose test target is each user's last item, and the (items,) counts of all earlier ones."""
    user, item = events(world)
    starts = np.flatnonzero(np.concatenate([[True], user[1:] != user[:-1]]))
    ends = np.append(starts[1:], len(user))
    starts, ends = starts[ends - starts > 1], ends[ends - starts > 1]
    last = ends - 1
    keep = np.ones(len(user), bool)
    keep[last] = False
    first = np.maximum(starts, last - max_history)
    columns = {
        "user_idx": user[last],
        "split": ["test"] * len(last),
        "history": _lists(item, first, last),
        "targets": _lists(item, last, ends),
        "seen": _lists(item, starts, last),
    }
    return pa.table(columns), np.bincount(item[keep], minlength=world.items)


def _lists(values: np.ndarray, first: np.ndarray, stop: np.ndarray) -> pa.ListArray:
    lengths = stop - first
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    place = np.repeat(first - offsets[:-1], lengths) + np.arange(offsets[-1])
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values[place]))
