"""Stage `cluster`: cascaded codebooks over the aligned modalities, and the tables that samplers draw from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from esans.bundle import BundleWriter
from esans.columns import ITEM_IDX, SIDE_PREFIX
from esans.errors import DataError
from esans.progress import say, spark_step
from esans.stage import Inputs, Stage

if TYPE_CHECKING:
    from esans.cluster.build import Built


class Cluster(Stage):
    """MSAC: two cascaded codebooks over the aligned modalities, and the tables that samplers draw from (METHOD 2)."""

    name = "cluster"
    code_version = 1
    inputs = ("align", "features", "prepare")

    def run(self, inputs: Inputs, out: BundleWriter) -> None:
        """Write codes, members, cells, primaries, secondaries, transitions, prototypes and quality.json.

        Raises:
            DataError: too few items for the guarantees, or `category` is no side column.
        """
        from esans.cluster.build import build

        category, align = self._category_column(inputs), inputs["align"]
        aligned, num_items = align.table("vectors"), int(align.facts["num_items"])
        vectors, modalities = aligned.spark(self.context.spark), list(align.facts["modalities"])
        built = build(vectors, modalities, aligned.rows, num_items, self.config, self.context.seed)
        figures = self._write_tables(built, out)
        with spark_step(self.context.spark, "quality"):
            figures |= self._agreement(inputs, built, category)
        out.report(figures)
        with out.local("quality.json") as path:
            path.write_text(json.dumps({"figures": figures, "sizes": built.cells.sizes.tolist()}, indent=1))
        facts = {"num_items": num_items, "unassigned": num_items - aligned.rows, "n_h": self.config.n_h}
        out.state({**facts, "num_primary": len(built.books.primaries), "num_secondary": len(built.books.secondaries)})
        _summary(figures, self.config.least, num_items - aligned.rows)
        self.context.spark.catalog.clearCache()

    def _write_tables(self, built: Built, out: BundleWriter) -> dict[str, float]:
        from esans.cluster import tables
        from esans.cluster.quality import effective_clusters, size_figures

        books, cells = built.books, built.cells
        apart = tables.distances(books.primaries.centroids)
        fallback = tables.fallbacks(cells, apart, self.config.n_h)
        probabilities = tables.transitions(apart, self.config.transition_temperature)
        out.write_arrow("cells", tables.cells_table(cells, fallback))
        out.write_arrow("primaries", tables.primaries_table(cells, books.primaries.centroids))
        out.write_arrow("secondaries", tables.secondaries_table(books.secondaries))
        out.write_arrow("transitions", tables.transitions_table(probabilities))
        out.write_arrow("prototypes", tables.prototypes_table(books.primaries))
        with spark_step(self.context.spark, "codes and members"):
            out.write("codes", built.codes.orderBy(ITEM_IDX))
            out.write("members", tables.members(built.codes, cells))
        self._plots(built, probabilities)
        found = size_figures(cells, len(books.secondaries), fallback, built.repairs)
        return {**found, "transition.effective_clusters": effective_clusters(probabilities)}

    def _plots(self, built: Built, probabilities: Any) -> None:
        from esans.cluster.figures import hard_pool_figure, size_figure, transition_figure

        run, cells = self.context.run, built.cells
        most = self.config.repair.largest * cells.sizes.mean()
        run.figure(size_figure(cells, self.config.least, most), "cluster_sizes.png")
        run.figure(hard_pool_figure(cells, self.config.n_h), "hard_pools.png")
        run.figure(transition_figure(probabilities, self.config.transition_temperature), "transitions.png")

    def _agreement(self, inputs: Inputs, built: Built, category: str | None) -> dict[str, float]:
        from esans.cluster.agreement import category_agreement, stability
        from esans.cluster.quality import cosine_coherence, graph_coherence

        spark, codes = self.context.spark, built.codes
        figures = cosine_coherence(built.sample, built.books.primaries.assign(built.sample.item, built.sample.mean))
        figures |= graph_coherence(codes, inputs["features"].table("graph").spark(spark), built.cells.sizes)
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
            known = ", ".join(side) or "none"
            raise DataError(f"cluster.category = {name!r}: there is no such side column. Configured in prepare.items.side: {known}.")
        return SIDE_PREFIX + name


def _summary(figures: dict[str, float], least: int, unassigned: int) -> None:
    say(
        f"  {figures['primaries']:.0f} primaries of {figures['smallest']:.0f} to {figures['largest']:.0f} items (at least {least}), "
        f"{figures['cells']:.0f} cells, {figures['hard_pool.topped_up_cells']:.0f} hard pools topped up"
    )
    if figures["repair.shared_out"]:
        say("  some items cannot be told apart by their vectors: their primary was shared out over several by a hash")
    if unassigned:
        say(f"  {unassigned:,} items have no vector and no cluster")
