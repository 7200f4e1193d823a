"""Stage `cluster`: cascaded codebooks over the aligned modalities, and the tables that samplers draw from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from esans.bundle import Bundle, BundleWriter
from esans.columns import ITEM_IDX, SIDE_PREFIX
from esans.errors import DataError
from esans.lineage import space_of
from esans.progress import say, spark_step
from esans.stage import Inputs, Stage
from esans.uri import join

if TYPE_CHECKING:
    from esans.cluster.build import Built
    from esans.cluster.drift import Outcome
    from esans.cluster.judge import Draws


class Cluster(Stage):
    """MSAC: two cascaded codebooks over the aligned modalities, and the tables that samplers draw from (METHOD 2)."""

    name = "cluster"
    code_version = 2
    inputs = ("align", "features", "prepare")

    def run(self, inputs: Inputs, out: BundleWriter) -> None:
        """Write codes, members, cells, primaries, secondaries, transitions, prototypes, and the report with its pages.

        Raises:
            DataError: too few items for the guarantees, or `category` is no side column.
            ConfigError: quality.model is no train bundle.
            GateError: a figure is out of the bounds of `gate`.
        """
        from esans.cluster.judge import Draws, Judgement
        from esans.cluster.scored import open_model

        category, align = self._category_column(inputs), inputs["align"]
        model = open_model(self.config.quality.model) if self.config.quality.model is not None else None
        aligned, num_items = align.table("vectors"), int(align.facts["num_items"])
        outcome = self._build(inputs, out)
        built = outcome.built
        draws = Draws.of(built, self.config)
        figures = self._write_tables(built, draws, out)
        with spark_step(self.context.spark, "quality"):
            figures |= self._agreement(inputs, built, category)
        facts = {"num_items": num_items, "unassigned": num_items - aligned.rows, "n_h": self.config.n_h}
        out.state({**facts, "num_primary": len(built.books.primaries), "num_secondary": len(built.books.secondaries)})
        out.state({"space": space_of(align), **outcome.facts()})
        _summary(figures, self.config.least, num_items - aligned.rows)
        Judgement(self.context, self.config, inputs, built, draws, category, model).conclude(figures, out)
        self.context.spark.catalog.clearCache()

    def _build(self, inputs: Inputs, out: BundleWriter) -> Outcome:
        from esans.cluster.build import Task
        from esans.cluster.drift import fit, keep_or_fit
        from esans.cluster.fit import read_trained
        from esans.cluster.previous import open_previous
        from esans.cluster.scan import Source

        spark, align, config = self.context.spark, inputs["align"], self.config
        source, num_items = Source.of(align.table("vectors"), align.facts["modalities"]), int(align.facts["num_items"])
        rebuilds = not config.assign_only or config.drift.action == "rebuild"
        trained = read_trained(align) if config.mode == "vq" and rebuilds else None
        previous = open_previous(spark, inputs["previous"], align, source) if "previous" in inputs else None
        task = Task(spark, source, num_items, config, self.context.seed, join(out.data_uri, "sample"), previous, trained)
        if config.assign_only and previous is not None:
            return keep_or_fit(task, previous, inputs["previous"])
        return fit(task, "there is no earlier build" if previous is None else "cluster.assign_only is off")

    @classmethod
    def accept(cls, config: Any, bundle: Bundle) -> None:
        """Hold the figures of a finished bundle against the bounds of today. Raises GateError."""
        from esans.cluster.gate import enforce

        enforce(bundle.figures, config.gate, f"quality.html and clusters.html in {bundle.data_uri}")

    def _write_tables(self, built: Built, draws: Draws, out: BundleWriter) -> dict[str, float]:
        from esans.cluster import tables
        from esans.cluster.quality import effective_clusters, size_figures

        books, cells = built.books, built.cells
        out.write_arrow("cells", tables.cells_table(cells, draws.fallback))
        out.write_arrow("primaries", tables.primaries_table(cells, books.primaries.centroids))
        out.write_arrow("secondaries", tables.secondaries_table(books.secondaries))
        out.write_arrow("transitions", tables.transitions_table(draws.probabilities))
        out.write_arrow("prototypes", tables.prototypes_table(books.primaries))
        with spark_step(self.context.spark, "codes and members"):
            out.write("codes", built.codes.orderBy(ITEM_IDX))
            out.write("members", tables.members(built.codes, cells))
        found = size_figures(cells, len(books.secondaries), draws.fallback, built.repairs) | built.figures
        return {**found, "transition.effective_clusters": effective_clusters(draws.probabilities)}

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
