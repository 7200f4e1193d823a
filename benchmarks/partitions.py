"""Clusters of equal sizes from any representation, and how well they agree with people's categories and behaviour.

Purity rises by itself where sizes are uneven, so that every method here is assigned under the same capacities.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import logsumexp

from esans.codebooks.config import KMeansConfig
from esans.codebooks.kmeans import kmeans

_ROUNDS = 60
_SHARPNESS = (0.1, 0.03, 0.01)


def equal_clusters(vectors: np.ndarray, k: int, seed: int, centroids: np.ndarray | None = None) -> np.ndarray:
    """K clusters of n // k or n // k + 1 items: k-means (or given centroids), then an assignment under capacities.

    Rows that are all zero have no vector; they fill whatever room is left, in an order drawn from `seed`.

    Args:
        vectors: (n, d) float32.
        k: clusters.
        seed: of k-means and of the order in which rows without a vector are placed.
        centroids: (k, d) instead of k-means.

    Returns:
        (n,) int64 labels.
    """
    present = np.flatnonzero(np.abs(vectors).sum(1) > 0)
    rng = np.random.default_rng(seed)
    capacity = np.full(k, len(vectors) // k)
    capacity[rng.choice(k, len(vectors) - capacity.sum(), replace=False)] += 1
    if centroids is None:
        centroids = kmeans(vectors[present], k, KMeansConfig(), seed)
    labels = np.full(len(vectors), -1, np.int64)
    labels[present] = _assign(_distances(vectors[present], centroids), capacity * len(present) / len(vectors), capacity)
    rest = rng.permutation(np.flatnonzero(labels < 0))
    room = np.repeat(np.arange(k), capacity - np.bincount(labels[present], minlength=k))
    labels[rest] = rng.permutation(room)[: len(rest)]
    return labels


def random_clusters(n: int, sizes: Sequence[int], seed: int) -> np.ndarray:
    """(n,) labels of random clusters with these sizes."""
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))[:n]


def _distances(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    return (vectors**2).sum(1, keepdims=True) - 2 * vectors @ centroids.T + (centroids**2).sum(1)


def _assign(cost: np.ndarray, target: np.ndarray, capacity: np.ndarray) -> np.ndarray:
    """Labels with at most `capacity` rows each: prices by Sinkhorn towards `target` sizes, then the dearest moves where one overflows."""
    prices = np.zeros(cost.shape[1])
    scale = float(cost.std())
    for sharpness in _SHARPNESS:
        unit = sharpness * scale
        for _ in range(_ROUNDS):
            logits = -(cost + prices) / unit
            prices += unit * (logsumexp(logits - logsumexp(logits, axis=1, keepdims=True), axis=0) - np.log(target))
    priced = cost + prices
    labels = priced.argmin(1)
    return _resolve(priced, labels, capacity.astype(np.int64))


def _resolve(priced: np.ndarray, labels: np.ndarray, capacity: np.ndarray) -> np.ndarray:
    sizes = np.bincount(labels, minlength=len(capacity))
    while (sizes > capacity).any():
        free = sizes < capacity
        over = np.flatnonzero((sizes > capacity)[labels])
        regret = np.where(free, priced[over], np.inf).min(1) - priced[over, labels[over]]
        row = over[int(regret.argmin())]
        sizes[labels[row]] -= 1
        labels[row] = int(np.where(free, priced[row], np.inf).argmin())
        sizes[labels[row]] += 1
    return labels


def purity(labels: np.ndarray, category: np.ndarray) -> float:
    """Share of items whose category is the commonest of their cluster; items with category -1 are left out."""
    known = category >= 0
    counts = np.zeros((labels.max() + 1, category.max() + 1), np.int64)
    np.add.at(counts, (labels[known], category[known]), 1)
    return float(counts.max(1).sum() / known.sum())


def mutual_information(labels: np.ndarray, category: np.ndarray) -> float:
    """Normalised mutual information (over the mean entropy); items with category -1 are left out."""
    from sklearn.metrics import normalized_mutual_info_score

    known = category >= 0
    return float(normalized_mutual_info_score(category[known], labels[known]))


def coherence(labels: np.ndarray, left: np.ndarray, right: np.ndarray, weight: np.ndarray) -> float:
    """Share of the weight of behaviour pairs (left, right) that stays inside a cluster."""
    return float(weight[labels[left] == labels[right]].sum() / weight.sum())
