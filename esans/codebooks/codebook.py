"""The two codebooks, and which code an item gets: one piece of numpy that driver, workers and tests share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def nearest(vectors: np.ndarray, centroids: np.ndarray, penalty: np.ndarray | None = None, batch: int = 4_096) -> np.ndarray:
    """argmin_k ||x - c_k||^2 + w_k; the lower k wins a tie.

    Args:
        vectors: (n, d) float32.
        centroids: (K, d) float32.
        penalty: (K,) float32; None is 0.
        batch: rows scored at a time.

    Returns:
        (n,) int64.
    """
    constant = (centroids.astype(np.float64) ** 2).sum(1)
    constant = (constant if penalty is None else constant + penalty).astype(np.float32) / 2
    found = np.empty(len(vectors), np.int64)
    for start in range(0, len(vectors), batch):
        # Half of the squared distance, without ||x||^2, which is the same for every centroid.
        scores = vectors[start : start + batch] @ centroids.T
        np.subtract(constant, scores, out=scores)
        found[start : start + batch] = scores.argmin(1)
    return found


def mix(item: np.ndarray) -> np.ndarray:
    """(n,) uint64 hash of item_idx (splitmix64)."""
    with np.errstate(over="ignore"):
        mixed = item.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


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

    def assign(self, item: np.ndarray, mean: np.ndarray, batch: int = 4_096) -> np.ndarray:
        """c1: (n,) item_idx and (n, d) means -> (n,) int32 in [0, K1)."""
        prototype = nearest(mean, self.prototypes, self.penalty, batch)
        counts = np.array([len(choice) for choice in self.choices], np.int64)
        flat = np.array([label for choice in self.choices for label in choice], np.int32)
        first = np.concatenate([[0], np.cumsum(counts)[:-1]])
        place = (mix(item) % counts[prototype].astype(np.uint64)).astype(np.int64)
        return flat[first[prototype] + place]


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

    def assign(self, item: np.ndarray, vectors: np.ndarray, mean: np.ndarray, batch: int = 4_096) -> tuple[np.ndarray, np.ndarray]:
        """(n,) items, (n, M, d) modalities and (n, d) means -> c1 and c2, (n,) int32 each."""
        c1 = self.primaries.assign(item, mean, batch)
        c2 = nearest(residuals(vectors, c1, self.primaries.centroids), self.secondaries, batch=batch)
        return c1, c2.astype(np.int32)
