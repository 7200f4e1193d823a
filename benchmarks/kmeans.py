"""K-means in one level against two: seconds and distortion, in one run.   python -m benchmarks.kmeans [--k 500 1000 2000]"""

from __future__ import annotations

import argparse
import time

import numpy as np

from esans.codebooks.codebook import nearest
from esans.codebooks.config import KMeansConfig
from esans.codebooks.kmeans import kmeans

CENTRES, DIM = 1_500, 128


def main() -> None:
    """Fit both ways for every K and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=int, default=200_000)
    parser.add_argument("--k", type=int, nargs="+", default=[500, 1_000, 2_000])
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    centres = random.standard_normal((CENTRES, DIM), np.float32)
    vectors = centres[random.integers(0, CENTRES, arguments.vectors)] + 0.7 * random.standard_normal((arguments.vectors, DIM), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    print("| K | flat, 25 iterations | two levels | distortion, flat -> two levels |\n|--:|--:|--:|--:|")
    for k in arguments.k:
        (flat_seconds, flat), (two_seconds, two) = (fitted(vectors, k, levels) for levels in ("never", "always"))
        print(f"| {k:,} | {flat_seconds:.1f} s | {two_seconds:.1f} s | {flat:.4f} -> {two:.4f} |", flush=True)


def fitted(vectors: np.ndarray, k: int, two_level: str) -> tuple[float, float]:
    """Seconds of a fit, and the mean squared distance to the nearest centroid."""
    started = time.perf_counter()
    centroids = kmeans(vectors, k, KMeansConfig(two_level=two_level), seed=0)
    seconds = time.perf_counter() - started
    return seconds, float(((vectors - centroids[nearest(vectors, centroids)]) ** 2).sum(1).mean())


if __name__ == "__main__":
    main()
