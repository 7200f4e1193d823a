"""An earlier build of the clusters: its codebooks, in the space of the vectors of today, and its codes.

Aligned spaces of two trainings differ by a rotation at the least, so that P of one means nothing in the other. There the
old centroids are found again as means of the new vectors of the items that the old codes put together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from esans.bundle import Bundle
from esans.cluster.scan import Source, mean_of
from esans.codebooks.codebook import Codebooks, Primaries
from esans.columns import CENTROID, ITEM_IDX, PRIMARY, SECONDARY, UNASSIGNED
from esans.errors import DataError
from esans.lineage import space_of
from esans.table import Table

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Sums = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Previous:
    """What an earlier build passes on."""

    books: Codebooks
    """In today's space. Rows of clusters that hold no item any more mean nothing."""
    primary: np.ndarray
    """(k,) ids of the primaries that still hold items."""
    secondary: np.ndarray
    """(l,) ids of such secondaries."""
    codes: Table
    same_space: bool
    """Whether both builds saw vectors of one space."""


def open_previous(spark: SparkSession, bundle: Bundle, align: Bundle, source: Source) -> Previous:
    """The earlier build as seen from today's vectors.

    Raises:
        DataError: the two builds have no item in common.
    """
    codes, books = bundle.table("codes"), read_books(bundle)
    if bundle.facts.get("space") == space_of(align):
        return Previous(books, np.arange(len(books.primaries)), np.arange(len(books.secondaries)), codes, True)
    sums = _summed(spark, source, codes, len(books.primaries), len(books.secondaries))
    if not sums[2].any():
        raise DataError(
            f"cluster.previous: no item of {bundle.uri} has a vector in {align.uri}.\nName a bundle over the same items, or none."
        )
    items = sums[2]
    return Previous(_centroids(sums, books), np.flatnonzero(items.sum(1)), np.flatnonzero(items.sum(0)), codes, False)


def read_books(bundle: Bundle) -> Codebooks:
    """P, how items find their primary, and Q of a cluster bundle."""
    prototypes = bundle.table("prototypes").arrow()
    primaries = Primaries(
        np.array(prototypes.column(CENTROID).to_pylist(), np.float32),
        prototypes.column("penalty").to_numpy().astype(np.float32),
        tuple(tuple(choice) for choice in prototypes.column("choices").to_pylist()),
        read_centroids(bundle.table("primaries"), PRIMARY),
    )
    return Codebooks(primaries, read_centroids(bundle.table("secondaries"), SECONDARY))


def read_centroids(table: Table, code: str) -> np.ndarray:
    """(K, d) float32: row k is the centroid whose `code` is k."""
    return table.dense(code, CENTROID, table.rows)


@dataclass(frozen=True)
class OldCodes:
    """Codes of an earlier build, addressed by item_idx: 8 bytes an item on each worker."""

    c1: np.ndarray
    c2: np.ndarray

    def of(self, item: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """c1 and c2 of items, UNASSIGNED where the earlier build did not assign them."""
        known = item < len(self.c1)
        place = np.where(known, item, 0)
        return np.where(known, self.c1[place], UNASSIGNED), np.where(known, self.c2[place], UNASSIGNED)


# Tasks follow one another in a worker process, and need the same table.
_LOADED: dict[str, OldCodes] = {}


def old_codes(codes: Table) -> OldCodes:
    """Codes of an earlier build, read once per process."""
    if codes.uri not in _LOADED:
        _LOADED.clear()
        c1, c2 = (codes.dense(ITEM_IDX, name, codes.rows, np.int32, UNASSIGNED) for name in (PRIMARY, SECONDARY))
        _LOADED[codes.uri] = OldCodes(c1, c2)
    return _LOADED[codes.uri]


def _summed(spark: SparkSession, source: Source, codes: Table, k1: int, k2: int) -> Sums:
    """Sums of the means by old primary (K1, d), of the modalities by old secondary (K2, M d), and items by both (K1, K2)."""
    shared = spark.sparkContext.broadcast((source, codes))

    def add(units: Iterator[int]) -> Iterator[Sums | None]:
        source, codes = shared.value
        total, old = None, old_codes(codes)
        for unit in units:
            for item, vectors in source.read(unit):
                total = _plus(total, _block_sums(*old.of(item), vectors, k1, k2))
        yield total

    found: Sums | None = source.parallel(spark).mapPartitions(add).treeReduce(_plus)
    shared.unpersist()
    assert found is not None
    return found


def _block_sums(c1: np.ndarray, c2: np.ndarray, vectors: np.ndarray, k1: int, k2: int) -> Sums:
    from scipy.sparse import csr_matrix

    known = c1 != UNASSIGNED
    c1, c2, vectors = c1[known], c2[known], vectors[known].astype(np.float64)
    n, one = len(c1), np.ones(len(c1))
    by_primary = csr_matrix((one, (c1, np.arange(n))), (k1, n)) @ mean_of(vectors)
    by_secondary = csr_matrix((one, (c2, np.arange(n))), (k2, n)) @ vectors.reshape(n, -1)
    return by_primary, by_secondary, csr_matrix((one, (c1, c2)), (k1, k2)).toarray()


def _plus(one: Sums | None, other: Sums | None) -> Sums | None:
    if one is None or other is None:
        return one if other is None else other
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]


def _centroids(sums: Sums, old: Codebooks) -> Codebooks:
    """P as means; Q as means of residuals, sum of (x - P_c1) = sum of x - sum over c1 of n_(c1, c2) P_c1; penalties of plain books stay."""
    by_primary, by_secondary, items = sums
    centroids = by_primary / np.maximum(items.sum(1, keepdims=True), 1)
    modalities = by_secondary.shape[1] // centroids.shape[1]
    secondaries = (by_secondary - np.tile(items.T @ centroids, modalities)) / np.maximum(items.sum(0), 1)[:, None]
    primaries = Primaries.plain(centroids)
    if old.primaries.choices == primaries.choices:
        primaries = Primaries(primaries.prototypes, old.primaries.penalty, primaries.choices, primaries.centroids)
    return Codebooks(primaries, secondaries.astype(np.float32))
