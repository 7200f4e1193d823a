"""A made-up world for the question whether a sampler's gain grows with the catalogue: numpy, from a few thousand to 1e6 items.

Behaviour. An item is a point of a continuous latent space, of one scale for each direction: there are no groups in it to
be found. A user follows three interests, points of the same space that belong to that user alone, in a mixture of the
user's own. A choice is made for one interest by a softmax over affinity and log popularity among the 256 items that are
nearest to it, the last of which is e^-5 times as likely as the first where both are as popular: an interest spans about as
many items whatever the catalogue, so that a larger one is finer, not fuller. One choice in seven explores by popularity
alone, which follows Zipf's law. The nearest come from a search by inverted lists over the latent points: exact up to 20,000
items, and about 70 % of the 256 nearest above, so that a large world's interests are a little fuzzier. The lists never meet the
clusters below, but both follow the same points where content explains much.

Content. What content shows of an item is sqrt(c) times its latent point and sqrt(1 - c) times another point of the same
distribution, which behaviour never looks at: c is the share of the latent variance that content explains. Two modalities
show this, each with noise of its own, in one space, as after alignment. With c = 0 content says nothing about behaviour.

Clusters. MSAC as in the product (k-means cascade, repair, tables) over the two modalities and nothing else. The latent
points are never clustered, and with c = 0 the clusters are noise to behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from esans.cluster.config import ClusterConfig
from esans.cluster.fit import Fit
from esans.cluster.repair import Repair
from esans.cluster.sample import Sample
from esans.cluster.tables import Cells, distances, fallbacks, transitions
from esans.codebooks.codebook import Codebooks, Primaries
from esans.codebooks.config import KMeansConfig
from esans.errors import DataError
from esans.negatives.tables import ClusterTables

LATENT = 12
EVENTS = 24
"""Events of a user: the last but one is for validation, the last one for the test."""
MODALITIES = 2

_SCALES = (np.arange(LATENT) + 1.0) ** -0.5
_MOST_USERS = 100_000
_INTERESTS = 3
_REACH = 256  # items that an interest chooses from
_LISTS = 8  # of sqrt(N) that a search looks into
_CUT = 5.0  # log of how much likelier the first of them is than the last
_ZIPF = 0.75
_EXPLORE = 1 / 7
_NOISE = 0.3
_BLOCK = 4_096
_TRAINING_VECTORS = 50_000
_TRIES = 4


@dataclass(frozen=True)
class GrowthWorld:
    """Items, users and what they choose; the same for every content share."""

    items: int
    seed: int

    @property
    def users(self) -> int:
        """Two an item, at most 100,000."""
        return min(2 * self.items, _MOST_USERS)

    def random(self, kind: int) -> np.random.Generator:
        """The stream of one kind of thing."""
        return np.random.default_rng([self.seed, self.items, kind])

    @cached_property
    def latent(self) -> np.ndarray:
        """(N, LATENT) float32 unit vectors."""
        return points(self.random(0), self.items)

    @cached_property
    def log_popularity(self) -> np.ndarray:
        """(N,) float32, of a Pareto tail: Zipf's law by rank."""
        uniform = np.maximum(self.random(1).random(self.items), 1 / (4 * self.items))
        return np.asarray(-_ZIPF * np.log(uniform), np.float32)

    def events(self) -> np.ndarray:
        """(users, EVENTS) int32 items in the order of time."""
        random, index, interests = self.random(2), self._index(), points(self.random(3), self.users * _INTERESTS)
        popular = np.cumsum(np.exp(self.log_popularity, dtype=np.float64))
        made = np.empty((self.users, EVENTS), np.int32)
        for start in range(0, self.users, _BLOCK):
            users = min(_BLOCK, self.users - start)
            own = interests[start * _INTERESTS : (start + users) * _INTERESTS]
            affinity, items = index.search(own, min(_REACH, self.items))
            shape = (users, EVENTS)
            mixture = np.cumsum(random.dirichlet(np.ones(_INTERESTS), users), axis=1)
            interest = (random.random(shape)[..., None] > mixture[:, None, :-1]).sum(-1)
            row = np.arange(users)[:, None] * _INTERESTS + interest
            chances = np.cumsum(softened(affinity, items, self.log_popularity), axis=1)
            place = _inverse(chances, row, random.random(shape))
            explored = np.searchsorted(popular, random.random(shape) * popular[-1], side="right")
            made[start : start + users] = np.where(random.random(shape) < _EXPLORE, np.minimum(explored, self.items - 1), items[row, place])
        return made

    def _index(self):  # type: ignore[no-untyped-def]
        import faiss

        if self.items <= 20_000:
            index = faiss.IndexFlatIP(LATENT)
        else:
            # Of unit vectors the nearest and the largest inner products are the same.
            lists = int(np.sqrt(self.items))
            index = faiss.IndexIVFFlat(faiss.IndexFlatL2(LATENT), LATENT, lists, faiss.METRIC_INNER_PRODUCT)
            index.cp.max_points_per_centroid, index.nprobe = 40, _LISTS
            index.train(self.latent)
        index.add(self.latent)
        return index

    def content(self, share: float) -> np.ndarray:
        """(N, MODALITIES, LATENT) float32 unit vectors of which `share` of the latent variance is behaviour's."""
        if not 0 <= share <= 1:
            raise ValueError(f"share = {share}: must lie between 0 and 1")
        random = self.random(4)
        shown = np.sqrt(share) * self.latent + np.sqrt(1 - share) * points(random, self.items)
        noise = random.standard_normal((self.items, MODALITIES, LATENT), dtype=np.float32) * np.float32(_NOISE / np.sqrt(LATENT))
        return _unit(np.asarray(shown[:, None, :] + noise, np.float32))

    def load_events(self, folder: Path) -> np.ndarray:
        """`events` from a file in `folder`, made and written on the first call."""
        path = folder / f"events-{self.items}-{self.seed}.npy"
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            own = path.with_suffix(f".{np.random.default_rng().integers(1 << 60)}.npy")
            np.save(own, self.events())
            own.rename(path)
        return np.asarray(np.load(path))


def points(random: np.random.Generator, count: int) -> np.ndarray:
    """(count, LATENT) float32 unit vectors of the latent distribution."""
    return _unit(random.standard_normal((count, LATENT), dtype=np.float32) * _SCALES.astype(np.float32))


def softened(affinity: np.ndarray, items: np.ndarray, log_popularity: np.ndarray) -> np.ndarray:
    """Chances of the items of a search: at equal popularity the last of a row is e^-5 times as likely as the first.

    Args:
        affinity: (n, k) float32, falling.
        items: (n, k) int64, -1 where the search found too few: their chance is 0.
        log_popularity: (N,) float32.

    Returns:
        (n, k) float64, rows sum to 1.
    """
    found = items >= 0
    last = np.maximum(found.sum(1) - 1, 0)
    below = np.where(found, affinity[:, :1] - affinity, 0.0)
    widest = np.maximum(below[np.arange(len(below)), last], 1e-9)[:, None]
    chances = np.where(found, np.exp(log_popularity[items] - _CUT * below / widest), 0.0).astype(np.float64)
    return np.asarray(chances / chances.sum(1, keepdims=True))


def msac(vectors: np.ndarray, seed: int, config: ClusterConfig | None = None) -> ClusterTables:
    """Cluster tables of aligned modalities (N, M, d), as the cluster stage makes them, in memory.

    Raises:
        DataError: the least cluster size cannot be met.
    """
    config = config or ClusterConfig(kmeans=KMeansConfig(max_training_vectors=_TRAINING_VECTORS, iterations=12))
    number, mean = np.arange(len(vectors)), vectors.mean(1)
    bound = config.kmeans.max_training_vectors
    rows = number if len(number) <= bound else np.sort(np.random.default_rng(seed).choice(number, bound, replace=False))
    sample, sizes = Sample(rows, vectors[rows], mean[rows]), config.sizes(len(vectors))
    fit, repair = Fit(sample, sizes, config, seed, None, None), Repair(sample, sizes, config, seed)

    def count(book: Primaries) -> np.ndarray:
        return np.bincount(book.assign(number, mean), minlength=len(book))

    primaries = repair.run(fit.primaries(), count)
    for _ in range(_TRIES):
        books = Codebooks(primaries, fit.secondaries(primaries, primaries.assign(sample.item, sample.mean)))
        c1, c2 = books.assign(number, vectors, mean)
        if repair.fits(np.bincount(c1, minlength=len(primaries))):
            return cluster_tables(c1, c2, primaries.centroids, config)
        primaries = repair.mend(primaries, count)
    raise DataError(f"{_TRIES} repairs left primaries out of bounds; lower num_primary")


def cluster_tables(c1: np.ndarray, c2: np.ndarray, centroids: np.ndarray, config: ClusterConfig) -> ClusterTables:
    """Tensors from the two codes (N,) of every item and the (K1, d) centroids."""
    order = np.lexsort((np.arange(len(c1)), c2, c1))
    pairs, inverse, count = np.unique(np.column_stack([c1, c2])[order], axis=0, return_inverse=True, return_counts=True)
    cells, apart = Cells(pairs[:, 0], pairs[:, 1], count, len(centroids)), distances(centroids)
    item_cell = np.empty(len(c1), np.int64)
    item_cell[order] = inverse.reshape(-1)
    sizes = cells.sizes
    arrays = {
        "members_M": order,
        "item_primary_N": c1,
        "item_cell_N": item_cell,
        "cell_offset_S": cells.offset,
        "cell_count_S": cells.count,
        "cell_primary_S": cells.c1,
        "cell_fallback_S": fallbacks(cells, apart, config.n_h),
        "primary_offset_P": np.cumsum(sizes) - sizes,
        "primary_count_P": sizes,
    }
    tensors = {name: torch.from_numpy(np.asarray(values, np.int64)) for name, values in arrays.items()}
    near = torch.from_numpy(transitions(apart, config.transition_temperature))
    return ClusterTables(**tensors, centroids_PD=torch.from_numpy(np.asarray(centroids, np.float32)), transitions_PP=near)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12), np.float32)


def _inverse(cumulative: np.ndarray, row: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Places in rows of cumulative chances, by the inverse of their distribution function."""
    # One search for all rows: row r holds values in (r, r + 1].
    flat = (np.minimum(cumulative, 1.0) + np.arange(len(cumulative))[:, None]).reshape(-1)
    place = np.searchsorted(flat, row + uniform, side="left") - row * cumulative.shape[1]
    return np.asarray(np.clip(place, 0, cumulative.shape[1] - 1))
