"""Where P and Q come from: k-means afresh, k-means from an earlier build, or the codebooks that the align stage trained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from esans.bundle import Bundle
from esans.cluster.config import ClusterConfig
from esans.cluster.previous import Previous, read_centroids
from esans.cluster.sample import Sample
from esans.codebooks.codebook import Primaries, nearest, residuals
from esans.codebooks.kmeans import kmeans
from esans.codebooks.sizes import Sizes
from esans.columns import PRIMARY, SECONDARY
from esans.errors import BundleError

# After a repair of P the residuals are others: so many Lloyd iterations bring a trained Q to them.
_REFINE_Q = 5


@dataclass(frozen=True)
class Trained:
    """Codebooks that the align stage trained with the heads."""

    primaries: np.ndarray
    """(K1, d) float32."""
    secondaries: np.ndarray
    """(K2, M d) float32."""


def read_trained(align: Bundle) -> Trained:
    """The codebooks of an align bundle. Raises BundleError when it trained none."""
    if not (align.has("codebook_primary") and align.has("codebook_secondary")):
        raise BundleError(
            f"cluster.mode = 'vq' takes the codebooks that the align stage trains, and {align.uri} has none.\n"
            "Set align.codebooks=vq and run align again, or set cluster.mode=kmeans."
        )
    tables = (("codebook_primary", PRIMARY), ("codebook_secondary", SECONDARY))
    return Trained(*(read_centroids(align.table(name), code) for name, code in tables))


class Fit:
    """Fits P, and Q for whatever P the repair leaves."""

    def __init__(
        self, sample: Sample, sizes: Sizes, config: ClusterConfig, seed: int, previous: Previous | None, trained: Trained | None
    ) -> None:
        self.sample, self.sizes, self.config, self.seed = sample, sizes, config, seed
        self.previous, self.trained = previous, trained

    def primaries(self) -> Primaries:
        """P before any repair; with an earlier build either that build's P, repairs included, or k-means from it."""
        config, mean = self.config.kmeans, self.sample.mean
        if self.trained is not None:
            return Primaries.plain(self.trained.primaries)
        if self.previous is None:
            return Primaries.plain(kmeans(mean, self.sizes.primary, config, self.seed, spherical=config.spherical))
        old, alive = self.previous.books.primaries, self.previous.primary
        start = old.centroids[alive]
        found = Primaries.plain(kmeans(mean, self.sizes.primary, config, self.seed, spherical=config.spherical, start=start))
        whole = len(old) == len(alive) == self.sizes.primary
        return old if whole and self._keeps(self._distortion(old), self._distortion(found)) else found

    def secondaries(self, primaries: Primaries, c1: np.ndarray) -> np.ndarray:
        """(K2, M d) float32: Q for the residuals under P. Kept from the align stage or an earlier build where P is theirs too."""
        left, config = residuals(self.sample.vectors, c1, primaries.centroids), self.config.kmeans
        if self.trained is not None:
            if np.array_equal(primaries.centroids, self.trained.primaries):
                return self.trained.secondaries
            return kmeans(left, len(self.trained.secondaries), config, self.seed, start=self.trained.secondaries, iterations=_REFINE_Q)
        if self.previous is None:
            return kmeans(left, self.sizes.secondary, config, self.seed)
        old, alive = self.previous.books.secondaries, self.previous.secondary
        found = kmeans(left, self.sizes.secondary, config, self.seed, start=old[alive])
        whole = len(old) == len(alive) == len(found) and np.array_equal(primaries.centroids, self.previous.books.primaries.centroids)
        return old if whole and self._keeps(_gap(left, old), _gap(left, found)) else found

    def _distortion(self, book: Primaries) -> float:
        c1 = book.assign(self.sample.item, self.sample.mean)
        return float(((self.sample.mean - book.centroids[c1]) ** 2).sum(1).mean())

    def _keeps(self, old: float, new: float) -> bool:
        return new >= (1 - self.config.keep_within) * old


def _gap(vectors: np.ndarray, centroids: np.ndarray) -> float:
    return float(((vectors - centroids[nearest(vectors, centroids)]) ** 2).sum(1).mean())
