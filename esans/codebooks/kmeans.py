"""Fit codebooks with faiss on a bounded sample."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from esans.codebooks.codebook import nearest
from esans.codebooks.config import KMeansConfig
from esans.errors import ConfigError

# From so many centroids on, two levels cost a fraction of one for nearly the same distortion (docs/clusters.md has the measurement).
TWO_LEVEL_FROM = 1_000
_REFINEMENTS = 3


def kmeans(
    vectors: np.ndarray,
    k: int,
    config: KMeansConfig,
    seed: int,
    *,
    spherical: bool = False,
    start: np.ndarray | None = None,
    iterations: int | None = None,
) -> np.ndarray:
    """k-means by faiss.

    Args:
        vectors: (n, d) float32.
        k: wanted centroids; as many as there are vectors where those are fewer.
        config: iterations, restarts, levels and device.
        seed: of the starting points.
        spherical: unit-norm centroids.
        start: (k', d) centroids of an earlier fit to start from, in one level; see `resized` where k' is not k.
        iterations: of Lloyd, from `start`; None takes those of the config.

    Returns:
        (min(k, n), d) float32; with `start`, centroid j is what start j has become.

    Raises:
        ConfigError: `device` is gpu and faiss sees none.
    """
    vectors = np.ascontiguousarray(vectors, np.float32)
    k = min(k, len(vectors))
    if start is not None:
        return _flat(vectors, k, config, seed, spherical, iterations or config.iterations, resized(start, k, vectors, seed))
    if k == len(vectors):
        return vectors
    if config.two_level == "always" or (config.two_level == "auto" and k >= TWO_LEVEL_FROM):
        return _two_levels(vectors, k, config, seed, spherical)
    return _flat(vectors, k, config, seed, spherical, config.iterations)


def shares(sizes: np.ndarray, k: int) -> np.ndarray:
    """How many of k parts each cluster gets: in proportion to its size, at least 1 and at most its items, k in all.

    Args:
        sizes: (C,) items, at least 1 each; C <= k <= their sum.
        k: parts to share out.

    Returns:
        (C,) int64.
    """
    wanted = sizes * (k / sizes.sum())
    found = np.clip(np.floor(wanted), 1, sizes).astype(np.int64)
    # The largest remainders first; the clips may have taken or left more than one part, hence the loop.
    while (missing := k - int(found.sum())) != 0:
        step = int(np.sign(missing))
        movable = found < sizes if step > 0 else found > 1
        order = np.argsort(np.where(movable, -step * (wanted - found), np.inf), kind="stable")
        found[order[: min(abs(missing), int(movable.sum()))]] += step
    return found


def resized(start: np.ndarray, k: int, vectors: np.ndarray, seed: int) -> np.ndarray:
    """An earlier fit cut or extended to k centroids.

    Cut: the k that are nearest to most vectors stay, in their order. Extended: vectors are drawn, one for each missing
    centroid, with a chance in proportion to their squared distance from the nearest old one.
    """
    start = np.ascontiguousarray(start, np.float32)
    if len(start) == k:
        return start
    own = nearest(vectors, start)
    if len(start) > k:
        items = np.bincount(own, minlength=len(start))
        return start[np.sort(np.argsort(-items, kind="stable")[:k])]
    gap = ((vectors - start[own]).astype(np.float64) ** 2).sum(1) + 1e-12
    drawn = np.random.default_rng(seed).choice(len(vectors), k - len(start), replace=False, p=gap / gap.sum())
    return np.concatenate([start, vectors[np.sort(drawn)]])


def _two_levels(vectors: np.ndarray, k: int, config: KMeansConfig, seed: int, spherical: bool) -> np.ndarray:
    """Coarse clusters, fine ones inside each, then a few iterations over all: about n sqrt(k) instead of n k distances an iteration."""
    coarse = _flat(vectors, max(math.isqrt(k), 1), config, seed, spherical, config.iterations)
    own = nearest(vectors, coarse)
    order = np.argsort(own, kind="stable")
    sizes = np.bincount(own, minlength=len(coarse))
    sizes = sizes[sizes > 0]
    parts = np.split(order, np.cumsum(sizes)[:-1])
    fine = [
        _flat(vectors[rows], int(share), config, seed, spherical, config.iterations)
        for rows, share in zip(parts, shares(sizes, k), strict=True)
    ]
    return _flat(vectors, k, config, seed, spherical, _REFINEMENTS, np.concatenate(fine))


def _flat(
    vectors: np.ndarray, k: int, config: KMeansConfig, seed: int, spherical: bool, iterations: int, start: np.ndarray | None = None
) -> np.ndarray:
    import faiss

    if k == len(vectors) and start is None:
        return vectors
    fitted = faiss.Kmeans(
        vectors.shape[1],
        k,
        niter=iterations,
        nredo=1 if start is not None else config.restarts,
        seed=seed % 2**31,
        spherical=spherical,
        min_points_per_centroid=1,
        max_points_per_centroid=len(vectors),
        gpu=_gpu(config.device, faiss),
    )
    fitted.train(vectors, init_centroids=start)
    return np.array(fitted.centroids, np.float32)


def _gpu(device: str, faiss: Any) -> bool:
    if device == "cpu":
        return False
    seen = int(faiss.get_num_gpus())
    if device == "gpu" and not seen:
        raise ConfigError("kmeans.device = 'gpu': faiss sees no GPU here. Install the extra `gpu` on a GPU machine, or set auto or cpu.")
    return seen > 0
