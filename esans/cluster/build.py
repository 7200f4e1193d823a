"""Codebooks that keep the guarantees, and the code of every item under them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from esans.cluster.assign import assign_codes, count_primaries
from esans.cluster.config import ClusterConfig
from esans.cluster.fit import Fit, Trained
from esans.cluster.matching import matched, relabelled
from esans.cluster.previous import Previous
from esans.cluster.repair import Repair, Repairs
from esans.cluster.sample import Sample, draw_sample
from esans.cluster.scan import Source
from esans.cluster.tables import Cells, count_cells
from esans.codebooks.codebook import Codebooks, Primaries
from esans.codebooks.sizes import Sizes, decide
from esans.errors import DataError
from esans.progress import say, spark_step

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# The sample may mislead the repair, and matrix products of other shapes may move an item on a border; two tries always sufficed.
_TRIES = 4


@dataclass(frozen=True)
class Built:
    """Codebooks, all items' codes, and what the report needs."""

    books: Codebooks
    codes: DataFrame
    """item_idx, c1, c2 of every item of the catalogue, on disk."""
    cells: Cells
    sizes: Sizes
    sample: Sample
    repairs: Repairs
    figures: dict[str, float] = field(default_factory=dict)
    """What the way it was built has to report beside."""


@dataclass(frozen=True)
class Task:
    """What there is to build from."""

    spark: SparkSession
    source: Source
    """Aligned vectors."""
    num_items: int
    """Size of the catalogue."""
    config: ClusterConfig
    seed: int
    """Of k-means and of the sample."""
    scratch: str
    """URI of a folder for what must not outlive the build."""
    previous: Previous | None = None
    trained: Trained | None = None

    def sample(self) -> Sample:
        """The training sample."""
        with spark_step(self.spark, "sample for the codebooks"):
            return draw_sample(self.spark, self.source, self.config.kmeans.max_training_vectors, self.seed, self.scratch)


def build(task: Task) -> Built:
    """Fit P on means and Q on residuals of a sample, mend P until every primary has its least size, assign everything.

    Raises:
        DataError: there are too few items, or the least size cannot be met.
    """
    spark, source, config = task.spark, task.source, task.config
    sizes = _sizes(task)
    sample = task.sample()
    say(f"  {sizes.primary} primaries x {sizes.secondary} secondaries on {len(sample.item):,} of {source.rows:,} items")
    fit, repair = Fit(sample, sizes, config, task.seed, task.previous, task.trained), Repair(sample, sizes, config, task.seed)

    def count(book: Primaries) -> np.ndarray:
        with spark_step(spark, "count all primaries"):
            return count_primaries(spark, source, book, config.assign_batch)

    primaries = repair.run(fit.primaries(), count)
    for _ in range(_TRIES):
        own = primaries.assign(sample.item, sample.mean)
        books = Codebooks(primaries, fit.secondaries(primaries, own))
        if task.previous is not None:
            books = _renamed(books, task.previous)
        with spark_step(spark, "assign all items"):
            codes = on_disk(assign_codes(spark, source, books, task.num_items, config.assign_batch))
            cells = count_cells(codes, len(primaries))
        if repair.fits(cells.sizes):
            return Built(books, codes, cells, sizes, sample, repair.done)
        codes.unpersist()
        primaries = repair.mend(primaries, count)
    raise DataError(
        f"cluster: {_TRIES} repairs left primaries of {cells.sizes.min():,} to {cells.sizes.max():,} items.\n"
        "Lower cluster.num_primary or cluster.min_cluster_size."
    )


def on_disk(codes: DataFrame) -> DataFrame:
    """Codes that are computed once, however often they are read."""
    from pyspark import StorageLevel

    return codes.persist(StorageLevel.DISK_ONLY)


def _sizes(task: Task) -> Sizes:
    config, rows = task.config, task.source.rows
    if task.trained is None:
        books = task.previous.books if task.previous is not None else None
        return config.sizes(rows, (len(books.primaries), len(books.secondaries)) if books is not None else None)
    found = len(task.trained.primaries), len(task.trained.secondaries)
    for name, wanted, k in zip(("num_primary", "num_secondary"), (config.num_primary, config.num_secondary), found, strict=True):
        if wanted not in (None, k):
            raise DataError(
                f"cluster.{name} = {wanted}, and the codebook that the align stage trained has {k}.\n"
                f"Leave cluster.{name} out, or set align.vq.{name}={wanted} and run align again."
            )
    return decide(rows, config.least, config.m_c + 1, config.repair.largest, *found)


def _renamed(books: Codebooks, previous: Previous) -> Codebooks:
    old, alive, second = previous.books, previous.primary, previous.secondary
    primary = matched(books.primaries.centroids, old.primaries.centroids[alive], alive)
    return relabelled(books, primary, matched(books.secondaries, old.secondaries[second], second))
