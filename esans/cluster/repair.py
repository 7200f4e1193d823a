"""Mend primaries that break the guarantees: merge the small, split the large, re-assign with a size penalty (METHOD 2).

The driver holds K1 sizes and the training sample, nothing else; whoever calls counts the sizes, on the sample or in Spark.
Two kinds of round: `improve` moves centroids, so that items still go to the nearest one; `force` gives up on distance,
and so always ends: merged sizes add up, and a hash splits anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from esans.cluster.config import ClusterConfig
from esans.cluster.sample import Sample
from esans.codebooks.codebook import Primaries, nearest
from esans.codebooks.kmeans import kmeans
from esans.codebooks.sizes import Sizes
from esans.errors import DataError

_FORCED_ROUNDS = 6
_SAME = 1e-6
# Standard errors of a sampled size within which a bound counts as in doubt.
_DOUBT = 4.0

Count = Callable[[Primaries], np.ndarray]


@dataclass
class Repairs:
    """What was done."""

    merged: int = 0
    split: int = 0
    shared_out: int = 0
    """Clusters split by a hash, because no distance tells their items apart."""
    forced: int = 0
    """Clusters merged without regard to the exact nearest centroid."""
    rounds: int = 0
    sizes: list[int] = field(default_factory=list)
    """Sizes before any repair, sampled where the catalogue is larger than the sample."""


class Repair:
    """Keeps every primary between the least and the largest size."""

    def __init__(self, sample: Sample, sizes: Sizes, config: ClusterConfig, seed: int) -> None:
        self.sample, self.sizes, self.config, self.seed = sample, sizes, config, seed
        self.done = Repairs()

    def run(self, book: Primaries, count: Count) -> Primaries:
        """Rounds on the sample, then over all items where the sample leaves a size in doubt. `count` gives the (K1,) sizes over all items.

        Raises:
            DataError: the least size cannot be met.
        """
        scale = self.sizes.items / len(self.sample.item)
        counted = self._members(book) * scale
        self.done.sizes = [int(size) for size in counted]
        for _ in range(self.config.repair.sample_rounds):
            if self.fits(counted):
                break
            book = self.improve(book, counted)
            counted = self._members(book) * scale
        return book if self._certain(counted, scale) else self.mend(book, count)

    def mend(self, book: Primaries, count: Count) -> Primaries:
        """Rounds over all items, then force. Raises as `run`."""
        for _ in range(self.config.repair.rounds):
            if self.fits(counted := count(book)):
                return book
            book = self.improve(book, counted)
        for _ in range(_FORCED_ROUNDS):
            if self.fits(counted := count(book)):
                return book
            book = self.force(book, counted)
        raise DataError(
            f"cluster: after {self.done.rounds} rounds of repair the smallest of {len(book)} primaries holds {int(counted.min()):,} items, "
            f"less than {self.sizes.least}.\nLower cluster.num_primary or cluster.min_cluster_size."
        )

    def _certain(self, counted: np.ndarray, scale: float) -> bool:
        """Whether sizes estimated from the sample keep the guarantees by so much that counting all items can wait for their assignment."""
        error = _DOUBT * np.sqrt(counted * scale) if scale > 1 else np.zeros(len(counted))
        return self.fits(counted - error) and self.fits(counted + error)

    def fits(self, counted: np.ndarray) -> bool:
        """Whether sizes keep the guarantees."""
        return bool(len(counted) >= self.sizes.fewest and counted.min() >= self.sizes.least and counted.max() <= self._most(len(counted)))

    def improve(self, book: Primaries, counted: np.ndarray) -> Primaries:
        """One round: merge the small into their nearest, split the large by k-means, penalise what stays near a bound.

        Works on prototypes, each with the primaries that share its items; only `force` makes a primary of several prototypes.
        """
        self.done.rounds += 1
        shares = np.array([len(choice) for choice in book.choices])
        sizes = np.array([counted[list(choice)].sum() for choice in book.choices], np.float64)
        return self._penalise(*self._split(*self._merge(book.prototypes.astype(np.float64), sizes, shares)))

    def force(self, book: Primaries, counted: np.ndarray) -> Primaries:
        """One round that relabels: the small join the nearest primary with room, the large are shared out by a hash."""
        self.done.rounds += 1
        sizes, label = counted.astype(np.float64), np.arange(len(book))
        # Too few primaries may be left, and are shared out again below: by a hash, equal parts are certain.
        while (sizes < self.sizes.least).any() and np.isfinite(sizes).sum() > 1:
            small = int(np.argmin(sizes))
            distance = np.linalg.norm(book.centroids - book.centroids[small], axis=1)
            distance[~np.isfinite(sizes)] = distance[small] = np.inf
            room = np.where(sizes + sizes[small] <= self._most(len(sizes)), distance, np.inf)
            target = int(np.argmin(room if np.isfinite(room).any() else distance))
            sizes[target] += sizes[small]
            sizes[small] = np.inf
            label[label == small] = target
            self.done.forced += 1
        choices = [tuple(int(label[old]) for old in choice) for choice in book.choices]
        choices, source = self._share_out(choices, np.where(np.isfinite(sizes), sizes, 0))
        return _compact(book, choices, source)

    def _share_out(self, choices: list[tuple[int, ...]], sizes: np.ndarray) -> tuple[list[tuple[int, ...]], list[int]]:
        """Choices with new labels from len(sizes) on, and for every label the one whose items and centroid it shares."""
        source = list(range(len(sizes)))
        large = [int(k) for k in np.flatnonzero(sizes > self._most(len(sizes)))]
        alive = int((sizes > 0).sum())
        if not large and alive < self.sizes.fewest:
            large = [int(np.argmax(sizes))]
        for k in large:
            parts = max(self._parts(sizes[k]), self.sizes.fewest - alive + 1)
            names = [k, *range(len(source), len(source) + parts - 1)]
            source += [k] * (parts - 1)
            self.done.shared_out += 1
            choices = [
                tuple(name if old == k else old for name in names for old in choice) if k in choice else choice for choice in choices
            ]
        return choices, source

    def _merge(self, centroids: np.ndarray, sizes: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        alive = np.ones(len(sizes), bool)
        for small in np.argsort(sizes, kind="stable"):
            if sizes[small] >= self.sizes.least or alive.sum() <= 1:
                continue
            distance = np.where(alive, np.linalg.norm(centroids - centroids[small], axis=1), np.inf)
            distance[small] = np.inf
            target = int(np.argmin(distance))
            total = sizes[small] + sizes[target]
            if total > 0:
                centroids[target] = (centroids[small] * sizes[small] + centroids[target] * sizes[target]) / total
            sizes[target], alive[small] = total, False
            self.done.merged += 1
        return centroids[alive], sizes[alive], shares[alive]

    def _split(self, centroids: np.ndarray, sizes: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Centroids, sizes, and in how many parts a hash must share each out: 1, but for clusters that no distance can split."""
        large = sizes > self._most(int(shares.sum()))
        if not large.any() and shares.sum() < self.sizes.fewest:
            large[np.argmax(sizes)] = True
        if not large.any():
            return centroids, sizes, shares
        own = nearest(self.sample.mean, centroids.astype(np.float32))
        parts_of = [(centroids[~large], sizes[~large], shares[~large])]
        for k in np.flatnonzero(large):
            members, parts = self.sample.mean[own == k], self._parts(sizes[k])
            if shares[k] == 1 and len(members) > parts and np.abs(members - members[:1]).max() > _SAME:
                found = kmeans(members, parts, self.config.kmeans, self.seed).astype(np.float64)
                own_sizes = np.bincount(nearest(members, found.astype(np.float32)), minlength=len(found)) * (sizes[k] / len(members))
                parts_of.append((found, own_sizes, np.ones(len(found), np.int64)))
                self.done.split += 1
            else:
                parts_of.append((centroids[k : k + 1], sizes[k : k + 1], np.array([parts])))
                self.done.shared_out += 1
        return tuple(np.concatenate(part) for part in zip(*parts_of, strict=True))  # type: ignore[return-value]

    def _penalise(self, centroids: np.ndarray, sizes: np.ndarray, shares: np.ndarray) -> Primaries:
        prototypes = centroids.astype(np.float32)
        own = nearest(self.sample.mean, prototypes)
        spread = float(((self.sample.mean - prototypes[own]) ** 2).sum(1).mean())
        each, mean_size = sizes / shares, self.sizes.items / shares.sum()
        near_bound = (each < 1.5 * self.sizes.least) | (each > 0.6 * self._most(int(shares.sum())))
        penalty = np.where(near_bound, self.config.repair.penalty * spread * np.log(np.maximum(each, 1) / mean_size), 0)
        first = np.cumsum(shares) - shares
        choices = tuple(tuple(range(start, start + parts)) for start, parts in zip(first.tolist(), shares.tolist(), strict=True))
        return Primaries(prototypes, penalty.astype(np.float32), choices, np.repeat(prototypes, shares, axis=0))

    def _members(self, book: Primaries) -> np.ndarray:
        return np.bincount(book.assign(self.sample.item, self.sample.mean), minlength=len(book))

    def _parts(self, size: float) -> int:
        """At least 2 parts, of about the mean size and each safely above the least."""
        return int(max(2, min(np.ceil(size * self.sizes.primary / self.sizes.items), size // (2 * self.sizes.least))))

    def _most(self, primaries: int) -> float:
        return self.sizes.largest * self.sizes.items / max(primaries, self.sizes.primary)


def _compact(book: Primaries, choices: list[tuple[int, ...]], source: list[int]) -> Primaries:
    """Number the primaries that are still chosen 0, 1, ..; they keep the centroid of the primary they came from."""
    used = sorted({label for choice in choices for label in choice})
    number = {label: place for place, label in enumerate(used)}
    renamed = tuple(tuple(number[label] for label in choice) for choice in choices)
    return replace(book, choices=renamed, centroids=book.centroids[[source[label] for label in used]])
