"""Stage `cluster`: cascaded codebooks over the aligned modalities, and the tables that samplers draw from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from esans.bundle import BundleWriter
from esans.columns import MEAN
from esans.errors import DataError
from esans.progress import say, spark_step
from esans.stage import Inputs, Stage

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from esans.cluster.codebook import Codebooks
    from esans.cluster.repair import Repairs, Sample
    from esans.cluster.rule import Sizes
    from esans.cluster.tables import Cells


class Cluster(Stage):
    """MSAC: two cascaded codebooks over the aligned modalities, and the tables that samplers draw from (METHOD 2)."""

    name = "cluster"
    code_version = 1
    inputs = ("align", "features", "prepare")

    def run(self, inputs: Inputs, out: BundleWriter) -> None:
        """Write codes, members, cells, primaries, secondaries, transitions and quality.json.

        Raises:
            DataError: too few items for the guarantees, or `category` is no side column.
        """
        from esans.cluster.assign import draw_sample
        from esans.cluster.rule import decide

        align, spark = inputs["align"], self.context.spark
        category = self._category_column(inputs)
        aligned, modalities = align.table("vectors"), list(align.facts["modalities"])
        sizes = decide(aligned.rows, self.config)
        vectors = aligned.spark(spark)
        with spark_step(spark, "sample for the codebooks"):
            sample = draw_sample(vectors.select("item_idx", *modalities, MEAN), modalities, aligned.rows, self.config.kmeans.max_training_vectors, self.context.seed)
        books, cells, repairs, codes = self._build(vectors, modalities, sample, sizes, int(align.facts["num_items"]), out)
        figures = self._write_tables(books, cells, codes, repairs, sizes, out)
        with spark_step(spark, "quality"):
            figures |= self._quality(inputs, sample, books, cells, codes, category)
        out.report(figures)
        with out.local("quality.json") as path:
            path.write_text(json.dumps({"figures": figures, "sizes": cells.sizes.tolist()}, indent=1))
        unassigned = int(align.facts["num_items"]) - aligned.rows
        out.state(
            {
                "num_items": align.facts["num_items"],
                "num_primary": len(books.primaries),
                "num_secondary": len(books.secondaries),
                "unassigned": unassigned,
                "n_h": self.config.n_h,
            }
        )
        _summary(figures, sizes, unassigned)
        spark.catalog.clearCache()

    def _build(
        self, vectors: DataFrame, modalities: list[str], sample: Sample, sizes: Sizes, num_items: int, out: BundleWriter
    ) -> tuple[Codebooks, Cells, Repairs, DataFrame]:
        """Fit and mend the primaries, fit the secondaries, assign everything."""
        from esans.cluster.assign import assign_codes, count_primaries
        from esans.cluster.codebook import Codebooks, Primaries, residuals
        from esans.cluster.fit import kmeans
        from esans.cluster.repair import Repair
        from esans.cluster.tables import count_cells

        spark, batch, settings, seed = self.context.spark, self.config.assign_batch, self.config.kmeans, self.context.seed
        say(f"  {sizes.primary} primaries x {sizes.secondary} secondaries to fit on {len(sample.item):,} of {sizes.items:,} items")
        primaries = Primaries.plain(kmeans(sample.mean, sizes.primary, settings, seed, spherical=settings.spherical))
        repair = Repair(sample, sizes, self.config, seed)
        with spark_step(spark, "primaries: assign, count and repair"):
            primaries = repair.run(primaries, lambda book: count_primaries(vectors, book, batch))
        own = primaries.assign(sample.item, sample.mean, batch)
        books = Codebooks(primaries, kmeans(residuals(sample.vectors, own, primaries.centroids), sizes.secondary, settings, seed))
        with spark_step(spark, "assign all items"):
            codes = out.write("codes", assign_codes(vectors, modalities, books, num_items, batch).orderBy("item_idx")).spark(spark)
            cells = count_cells(codes, len(primaries))
        return books, cells, repair.done, codes

    def _write_tables(self, books: Codebooks, cells: Cells, codes: DataFrame, repairs: Repairs, sizes: Sizes, out: BundleWriter) -> dict[str, float]:
        from esans.cluster import tables
        from esans.cluster.figures import hard_pool_figure, size_figure, transition_figure
        from esans.cluster.quality import effective_clusters, size_figures

        apart = tables.distances(books.primaries.centroids)
        fallback = tables.fallbacks(cells, apart, self.config.n_h)
        probabilities = tables.transitions(apart, self.config.transition_temperature)
        out.write_arrow("cells", tables.cells_table(cells, fallback))
        out.write_arrow("primaries", tables.primaries_table(cells, books.primaries.centroids))
        out.write_arrow("secondaries", tables.secondaries_table(books.secondaries))
        out.write_arrow("transitions", tables.transitions_table(probabilities))
        out.write_arrow("prototypes", _prototypes(books))
        with spark_step(self.context.spark, "members"):
            out.write("members", tables.members(codes, cells))
        run = self.context.run
        run.figure(size_figure(cells, sizes.least, sizes.largest * sizes.items / len(cells.sizes)), "cluster_sizes.png")
        run.figure(hard_pool_figure(cells, self.config.n_h), "hard_pools.png")
        run.figure(transition_figure(probabilities, self.config.transition_temperature), "transitions.png")
        found = size_figures(cells, len(books.secondaries), fallback, repairs)
        return {**found, "transition.effective_clusters": effective_clusters(probabilities)}

    def _quality(self, inputs: Inputs, sample: Sample, books: Codebooks, cells: Cells, codes: DataFrame, category: str | None) -> dict[str, float]:
        from esans.cluster.quality import category_agreement, cosine_coherence, graph_coherence, stability

        spark = self.context.spark
        figures = cosine_coherence(sample, books.primaries.assign(sample.item, sample.mean, self.config.assign_batch))
        figures |= graph_coherence(codes, inputs["features"].table("graph").spark(spark), cells.sizes)
        if category is not None:
            figures |= category_agreement(codes, inputs["prepare"].table("items").spark(spark), category)
        if "previous" in inputs:
            figures |= stability(codes, inputs["previous"].table("codes").spark(spark))
        return figures

    def _category_column(self, inputs: Inputs) -> str | None:
        name = self.config.category
        if name is None:
            return None
        side: dict[str, Any] = inputs["prepare"].facts["side"]
        if name not in side:
            raise DataError(f"cluster.category = {name!r}: there is no such side column. Configured in prepare: {', '.join(side) or 'none'}.")
        return f"side_{name}"


def _prototypes(books: Codebooks) -> Any:
    """How an item finds its primary, for assigning new items later: prototype, penalty, choices list<int>."""
    import pyarrow as pa

    from esans.cluster.tables import lists
    from esans.columns import CENTROID

    book = books.primaries
    return pa.table({CENTROID: lists(book.prototypes), "penalty": pa.array(book.penalty), "choices": pa.array([list(choice) for choice in book.choices], pa.list_(pa.int32()))})


def _summary(figures: dict[str, float], sizes: Sizes, unassigned: int) -> None:
    say(
        f"  {figures['primaries']:.0f} primaries of {figures['smallest']:.0f} to {figures['largest']:.0f} items (at least {sizes.least}), "
        f"{figures['cells']:.0f} cells, {figures['hard_pool.topped_up_cells']:.0f} hard pools topped up"
    )
    if figures["repair.shared_out"]:
        say("  some items cannot be told apart by their vectors: their cluster was shared out over several primaries by a hash")
    if unassigned:
        say(f"  {unassigned:,} items have no vector and no cluster")
