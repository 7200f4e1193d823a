"""The two codebooks, and which code an item gets: one piece of numpy that driver, workers and tests share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from esans.hashing import GOLDEN, salted

# Rows scored at a time: their scores against a few thousand centroids stay in the processor's cache.
BATCH = 512


class Nearest:
    """argmin_k ||x - c_k||^2 + w_k over fixed centroids; the lower k wins a tie."""

    def __init__(self, centroids: np.ndarray, penalty: np.ndarray | None = None) -> None:
        """Args: centroids (K, d) float32; penalty (K,) float32, None is 0."""
        constant = (centroids.astype(np.float64) ** 2).sum(1) + (0 if penalty is None else penalty)
        # x.c - (||c||^2 + w) / 2 as one product of [x, 1], without ||x||^2, which is the same for every centroid.
        self._weights_EK = np.ascontiguousarray(np.concatenate([centroids, -constant[:, None] / 2], axis=1).T, np.float32)

    def __call__(self, vectors: np.ndarray, batch: int = BATCH) -> np.ndarray:
        """(n, d) float32 -> (n,) int64."""
        width, k = self._weights_EK.shape
        found = np.empty(len(vectors), np.int64)
        rows_BE, scores_BK = np.ones((min(batch, len(vectors)), width), np.float32), np.empty((min(batch, len(vectors)), k), np.float32)
        for start in range(0, len(vectors), batch):
            part = vectors[start : start + batch]
            rows, scores = rows_BE[: len(part)], scores_BK[: len(part)]
            rows[:, :-1] = part
            np.matmul(rows, self._weights_EK, out=scores)
            scores.argmax(axis=1, out=found[start : start + batch])
        return found


def nearest(vectors: np.ndarray, centroids: np.ndarray, penalty: np.ndarray | None = None, batch: int = BATCH) -> np.ndarray:
    """argmin_k ||x - c_k||^2 + w_k; the lower k wins a tie.

    Args:
        vectors: (n, d) float32.
        centroids: (K, d) float32.
        penalty: (K,) float32; None is 0.
        batch: rows scored at a time.

    Returns:
        (n,) int64.
    """
    return Nearest(centroids, penalty)(vectors, batch)


def mix(item: np.ndarray) -> np.ndarray:
    """(n,) uint64 hash of item_idx (splitmix64)."""
    return salted(item, GOLDEN)


@dataclass(frozen=True)
class Primaries:
    """The primary codebook P, and how an item finds its primary (METHOD 2).

    Usually prototype k is centroid k and its only choice is k. Two repairs change that: a small cluster that was merged
    keeps its prototype but points to another primary, and a cluster of items that no distance can tell apart is shared
    out over several primaries by a hash of the item.
    """

    prototypes: np.ndarray
    """(R, d) float32: an item goes to the nearest, after the penalty."""
    penalty: np.ndarray
    """(R,) float32: added to the squared distance."""
    choices: tuple[tuple[int, ...], ...]
    """For each prototype the primaries that share its items."""
    centroids: np.ndarray
    """(K1, d) float32: P."""

    @classmethod
    def plain(cls, centroids: np.ndarray) -> Primaries:
        """One prototype a primary, no penalty."""
        centroids = np.ascontiguousarray(centroids, np.float32)
        return cls(centroids, np.zeros(len(centroids), np.float32), tuple((k,) for k in range(len(centroids))), centroids)

    def __len__(self) -> int:
        return len(self.centroids)

    def assign(self, item: np.ndarray, mean: np.ndarray, batch: int = BATCH) -> np.ndarray:
        """c1: (n,) item_idx and (n, d) means -> (n,) int32 in [0, K1)."""
        prototype, (counts, first, flat) = self._search(mean, batch), self._labels
        place = (mix(item) % counts[prototype].astype(np.uint64)).astype(np.int64)
        return flat[first[prototype] + place]

    # Prepared once for however many blocks of rows.
    @cached_property
    def _search(self) -> Nearest:
        return Nearest(self.prototypes, self.penalty)

    @cached_property
    def _labels(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        counts = np.array([len(choice) for choice in self.choices], np.int64)
        flat = np.array([label for choice in self.choices for label in choice], np.int32)
        return counts, np.concatenate([[0], np.cumsum(counts)[:-1]]), flat


def residuals(vectors: np.ndarray, c1: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """r_i = [x_1 - P_c1; ...; x_M - P_c1] (METHOD 2).

    Args:
        vectors: (n, M, d) aligned modalities.
        c1: (n,) primaries.
        centroids: (K1, d).

    Returns:
        (n, M d) float32.
    """
    return (vectors - centroids[c1][:, None, :]).reshape(len(vectors), -1)


@dataclass(frozen=True)
class Codebooks:
    """P and Q."""

    primaries: Primaries
    secondaries: np.ndarray
    """(K2, M d) float32: Q, shared by all primaries."""

    def assign(self, item: np.ndarray, vectors: np.ndarray, mean: np.ndarray, batch: int = BATCH) -> tuple[np.ndarray, np.ndarray]:
        """(n,) items, (n, M, d) modalities and (n, d) means -> c1 and c2, (n,) int32 each."""
        c1 = self.primaries.assign(item, mean, batch)
        c2 = np.empty(len(item), np.int32)
        # Residuals of all rows would leave the processor's cache.
        for start in range(0, len(item), batch):
            part = slice(start, start + batch)
            c2[part] = self._search(residuals(vectors[part], c1[part], self.primaries.centroids), batch)
        return c1, c2

    @cached_property
    def _search(self) -> Nearest:
        return Nearest(self.secondaries)
