"""Fit codebooks with faiss on a bounded sample."""

from __future__ import annotations

import numpy as np

from esans.codebooks.config import KMeansConfig


def kmeans(vectors: np.ndarray, k: int, config: KMeansConfig, seed: int, *, spherical: bool = False) -> np.ndarray:
    """k-means by faiss.

    Args:
        vectors: (n, d) float32.
        k: wanted centroids; as many as there are vectors where those are fewer.
        config: iterations and restarts.
        seed: of the starting points.
        spherical: unit-norm centroids.

    Returns:
        (min(k, n), d) float32.
    """
    import faiss

    vectors = np.ascontiguousarray(vectors, np.float32)
    k = min(k, len(vectors))
    if k == len(vectors):
        return vectors
    fitted = faiss.Kmeans(
        vectors.shape[1],
        k,
        niter=config.iterations,
        nredo=config.restarts,
        seed=seed % 2**31,
        spherical=spherical,
        min_points_per_centroid=1,
        max_points_per_centroid=len(vectors),
    )
    fitted.train(vectors)
    return np.array(fitted.centroids, np.float32)
