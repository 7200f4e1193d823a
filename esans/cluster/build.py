"""Codebooks that keep the guarantees, and the code of every item under them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from esans.cluster.assign import assign_codes, count_primaries, draw_sample
from esans.cluster.config import ClusterConfig
from esans.cluster.repair import Repair, Repairs, Sample
from esans.cluster.tables import Cells, count_cells
from esans.codebooks.codebook import Codebooks, Primaries, residuals
from esans.codebooks.kmeans import kmeans
from esans.codebooks.sizes import Sizes
from esans.columns import ITEM_IDX, MEAN
from esans.progress import say, spark_step

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

# Matrix products of other shapes may differ in the last bit and move an item on a border; two tries always sufficed.
_TRIES = 3


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


def build(vectors: DataFrame, modalities: list[str], assigned: int, num_items: int, config: ClusterConfig, seed: int) -> Built:
    """Fit P on means and Q on residuals of a sample, mend P until every primary has its least size, assign everything.

    Args:
        vectors: item_idx, one array<float> per modality, mean.
        modalities: their names, in the order of the residuals.
        assigned: rows of `vectors`.
        num_items: size of the catalogue.
        config: the whole section.
        seed: of k-means and of the sample.

    Raises:
        DataError: there are too few items, or the least size cannot be met.
    """
    spark, batch = vectors.sparkSession, config.assign_batch
    sizes = config.sizes(assigned)
    with spark_step(spark, "sample for the codebooks"):
        sample = draw_sample(vectors.select(ITEM_IDX, *modalities, MEAN), modalities, assigned, config.kmeans.max_training_vectors, seed)
    say(f"  {sizes.primary} primaries x {sizes.secondary} secondaries to fit on {len(sample.item):,} of {assigned:,} items")
    primaries = Primaries.plain(kmeans(sample.mean, sizes.primary, config.kmeans, seed, spherical=config.kmeans.spherical))
    repair = Repair(sample, sizes, config, seed)
    with spark_step(spark, "primaries: assign, count and repair"):
        primaries = repair.run(primaries, lambda book: count_primaries(vectors, book, batch))
    for _ in range(_TRIES):
        own = primaries.assign(sample.item, sample.mean, batch)
        books = Codebooks(primaries, kmeans(residuals(sample.vectors, own, primaries.centroids), sizes.secondary, config.kmeans, seed))
        with spark_step(spark, "assign all items"):
            codes, cells = _assign(vectors, modalities, books, num_items, batch)
        if repair.fits(cells.sizes):
            break
        primaries = repair.force(primaries, cells.sizes)
    return Built(books, codes, cells, sizes, sample, repair.done)


def _assign(vectors: DataFrame, modalities: list[str], books: Codebooks, num_items: int, batch: int) -> tuple[DataFrame, Cells]:
    from pyspark import StorageLevel

    codes = assign_codes(vectors, modalities, books, num_items, batch).persist(StorageLevel.DISK_ONLY)
    return codes, count_cells(codes, len(books.primaries))
