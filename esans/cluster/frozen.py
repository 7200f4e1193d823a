"""New items under frozen codebooks: what the previous build said stays as it was, and one pass gives the rest the nearest codes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from esans.cluster.assign import every_item
from esans.cluster.build import Built, Task, on_disk
from esans.cluster.previous import Previous, old_codes
from esans.cluster.repair import Repairs
from esans.cluster.scan import mean_of
from esans.cluster.tables import Cells, count_cells
from esans.codebooks.sizes import Sizes
from esans.columns import ITEM_IDX, PRIMARY, SECONDARY, UNASSIGNED
from esans.errors import DataError
from esans.progress import say, spark_step

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_DISTANCE = "distance"  # squared, of the mean to the centroid of the own primary
_MOVED = "moved"  # whether an old item's nearest primary is another one by now; null for new items


class Unkept(DataError):
    """The codes of the previous build can't be kept."""


def build_frozen(task: Task, previous: Previous) -> Built:
    """The tables of the previous build with the items that are new to it.

    Raises:
        Unkept: the vectors of today no longer tell the old primaries, or items that vanished left one too small.
    """
    spark, books = task.spark, previous.books
    if not previous.same_space:
        say("  another alignment than the previous build's: its centroids are found again as means of the items they held")
        _all_alive(previous)
    sample = task.sample()
    with spark_step(spark, "assign new items"):
        coded = on_disk(_assign(task, previous))
        figures = _counted(coded)
    _check_agreement(figures, task, previous)
    codes = every_item(spark, coded.drop(_MOVED, _DISTANCE), task.source.rows, task.num_items)
    cells = count_cells(codes, len(books.primaries))
    _check_sizes(cells, task.config.least)
    sizes = Sizes(
        task.source.rows, len(books.primaries), len(books.secondaries), task.config.least, task.config.m_c + 1, task.config.repair.largest
    )
    say(f"  {figures['assign_only.new']:,.0f} new items; {figures['assign_only.kept']:,.0f} keep their codes")
    return Built(books, codes, cells, sizes, sample, Repairs(sizes=cells.sizes.tolist()), figures)


def _assign(task: Task, previous: Previous) -> DataFrame:
    """item_idx, c1, c2 and whether the nearest primary is another one than the one that is kept."""
    shared = task.spark.sparkContext.broadcast((task.source, previous.books, previous.codes, task.config.assign_batch))

    def assign(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        source, books, codes, batch_rows = shared.value
        old = old_codes(codes)
        for unit in (unit for batch in batches for unit in batch.column(0).to_pylist()):
            for item, vectors in source.read(unit):
                kept, kept2 = old.of(item)
                near, near2 = books.assign(item, vectors, mean_of(vectors), batch_rows)
                new = kept == UNASSIGNED
                c1, c2 = np.where(new, near, kept), np.where(new, near2, kept2)
                far = np.square(mean_of(vectors) - books.primaries.centroids[c1]).sum(1, dtype=np.float64)
                columns = [pa.array(item), pa.array(c1), pa.array(c2), pa.array(near != kept, mask=new), pa.array(far)]
                yield pa.RecordBatch.from_arrays(columns, [ITEM_IDX, PRIMARY, SECONDARY, _MOVED, _DISTANCE])

    schema = f"{ITEM_IDX} long, {PRIMARY} int, {SECONDARY} int, {_MOVED} boolean, {_DISTANCE} double"
    return task.source.numbers(task.spark).mapInArrow(assign, schema)


def _counted(coded: DataFrame) -> dict[str, float]:
    from pyspark.sql import functions as F

    row = coded.agg(F.count(F.lit(1)), F.count(_MOVED), F.sum(F.col(_MOVED).cast("long")), F.mean(_DISTANCE)).first()
    assert row is not None
    everything, kept, moved = (int(value or 0) for value in row[:3])
    found = {"assign_only.new": everything - kept, "assign_only.kept": kept, "assign_only.agreement": 1 - moved / max(kept, 1)}
    return {**found, "assign_only.distance": float(row[3] or 0.0)}


def _all_alive(previous: Previous) -> None:
    k1, k2 = len(previous.books.primaries), len(previous.books.secondaries)
    lost = k1 - len(previous.primary), k2 - len(previous.secondary)
    if any(lost):
        raise Unkept(
            f"cluster.assign_only: {lost[0]} of {k1} primaries and {lost[1]} of {k2} secondaries of the previous build hold no item "
            "any more, and their centroids cannot be found again.\nRebuild: set cluster.assign_only=false."
        )


def _check_agreement(figures: dict[str, float], task: Task, previous: Previous) -> None:
    found, least = figures["assign_only.agreement"], task.config.least_agreement
    if not previous.same_space and found < least:
        raise Unkept(
            f"cluster.assign_only: the nearest primary is the one they have for {found:.1%} of {figures['assign_only.kept']:,.0f} "
            f"old items, less than cluster.least_agreement = {least:.0%}: the new alignment no longer tells the old clusters.\n"
            "Rebuild (cluster.assign_only=false), or keep the alignment that the previous build was made with."
        )


def _check_sizes(cells: Cells, least: int) -> None:
    small = cells.sizes < least
    if small.any():
        raise Unkept(
            f"cluster.assign_only: items that vanished left {small.sum():,} of {len(small):,} primaries with fewer than {least} items "
            f"(the smallest: {cells.sizes.min():,}).\nRebuild (cluster.assign_only=false), or lower cluster.min_cluster_size."
        )
