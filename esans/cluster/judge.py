"""The last word on a build: what draws from it would be like, plots, pages, quality.json, and the gate."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from esans.bundle import Bundle, BundleWriter
from esans.cluster import tables
from esans.cluster.false_negatives import Pairs, count_pairs, easy_rate, expected_counts, rates
from esans.cluster.false_negatives import figures as rate_figures
from esans.cluster.gate import broken, enforce
from esans.cluster.hardness import CosineJudge, Drawn, Expected, Held, Judge, fallback_of, measure
from esans.cluster.pictures import CurvePoint, curve_figure, hardness_figure, plot_style, svg
from esans.cluster.quality import drawn_vs_norm, effective_clusters
from esans.columns import COUNT, ITEM_IDX
from esans.progress import say, spark_step
from esans.stage import Inputs, StageContext

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from esans.cluster.build import Built
    from esans.cluster.config import ClusterConfig

_ROWS = 256


@dataclass(frozen=True)
class Draws:
    """What an item's draws go by."""

    apart: np.ndarray
    """(K1, K1) distances of the primaries, infinite on the diagonal."""
    fallback: np.ndarray
    """(n,) primary that tops up the hard pool of each cell."""
    probabilities: np.ndarray
    """(K1, K1) transitions at the T_c in force."""

    @classmethod
    def of(cls, built: Built, config: ClusterConfig) -> Draws:
        """Transitions and fallbacks of new clusters."""
        apart = tables.distances(built.books.primaries.centroids)
        fallback = tables.fallbacks(built.cells, apart, config.n_h)
        return cls(apart, fallback, tables.transitions(apart, config.transition_temperature))

    def first(self, temperature: float, c1: np.ndarray) -> np.ndarray:
        """(n,) primaries -> (n, K1) transition probabilities at any temperature."""
        return tables.transitions(self.apart[c1], temperature)

    def expected(self, temperature: float, m_c: int, seed: int) -> Expected:
        """How often each primary is drawn for given ones."""
        return lambda c1: expected_counts(self.first(temperature, c1), m_c, seed)


@dataclass
class Findings:
    """What was found out."""

    figures: dict[str, float]
    notes: list[str] = field(default_factory=list)
    """Sentences on what was measured, and what was not and why."""
    curve: list[CurvePoint] = field(default_factory=list)
    plots: dict[str, tuple[str, Figure]] = field(default_factory=dict)
    """Caption -> file name and figure."""
    pages: dict[str, str] = field(default_factory=dict)
    """File name -> HTML."""


class Judgement:
    """Judges one build and writes everything about it."""

    def __init__(
        self,
        context: StageContext,
        config: ClusterConfig,
        inputs: Inputs,
        built: Built,
        draws: Draws,
        category: str | None,
        model: Bundle | None,
    ) -> None:
        self.context, self.config, self.inputs, self.built, self.draws = context, config, inputs, built, draws
        self.category, self.model, self.seed = category, model, context.seed

    def conclude(self, figures: Mapping[str, float], out: BundleWriter) -> None:
        """Measure, draw, write quality.json and the pages, log them, and hold the figures against the bounds.

        Raises:
            GateError: a figure is out of bounds; everything to look at is in MLflow by then.
        """
        num_items = int(self.inputs["align"].facts["num_items"])
        found = Findings({**figures, "unassigned.share": 1 - float(self.built.cells.count.sum()) / num_items})
        found.figures["coherence.cosine_gap"] = figures["coherence.cosine_within"] - figures["coherence.cosine_overall"]
        found.figures |= drawn_vs_norm(self.draws.probabilities, self.built.books.primaries.centroids)
        with plot_style():
            self._plot_tables(found)
            if self.config.quality.enabled:
                with spark_step(self.context.spark, "false negatives, hardness and pages"):
                    self._measure(found, num_items)
                    self._browse(found)
            shut = broken(found.figures, self.config.gate)
            self._write(found, shut, out)
        for note in found.notes:
            say(f"  {note}")
        if shut:
            self.context.run.metrics(found.figures)
        enforce(found.figures, self.config.gate, look(self.context.run.run_id, self.context.run.tracking_uri))

    def _plot_tables(self, found: Findings) -> None:
        from esans.cluster.figures import hard_pool_figure, size_figure, transition_figure

        cells, temperature = self.built.cells, self.config.transition_temperature
        most = self.config.repair.largest * cells.sizes.mean()
        found.plots["Sizes of the primaries"] = "cluster_sizes.png", size_figure(cells, self.config.least, most)
        found.plots["Hard pools"] = "hard_pools.png", hard_pool_figure(cells, self.config.n_h)
        found.plots["Where easy draws go"] = "transitions.png", transition_figure(self.draws.probabilities, temperature)

    def _measure(self, found: Findings, num_items: int) -> None:
        config, prepare, codes = self.config, self.inputs["prepare"], self.built.codes
        levels = sorted({*config.quality.temperatures, config.transition_temperature})
        pairs = count_pairs(prepare, codes, self.built.cells, self.draws.fallback, config.quality, self.seed)
        ratio = self._false_negatives(pairs, levels, num_items, found)
        drawn = self._hardness(levels)
        found.notes.append(f"Hardness is the {drawn.about}.")
        found.figures |= drawn.figures()
        found.plots["How hard draws are"] = "hardness.png", hardness_figure(drawn)
        if not ratio:
            return
        for level in (level for level in levels if level in drawn.curve):
            found.curve.append(CurvePoint(level, ratio[level], drawn.curve[level], self._effective(level)))
            found.figures |= {f"curve.Tc_{level:g}.easy_vs_uniform": ratio[level], f"curve.Tc_{level:g}.hardness": drawn.curve[level]}
        others = {
            kind: (float(drawn.scores[kind].mean()), 1.0 if kind == "uniform" else found.figures[f"false_negatives.{kind}_vs_uniform"])
            for kind in ("hard", "uniform")
            if len(drawn.scores[kind])
        }
        found.plots["The price of hardness"] = "false_negatives.png", curve_figure(found.curve, others, drawn.about)

    def _false_negatives(self, pairs: Pairs | None, levels: list[float], num_items: int, found: Findings) -> dict[float, float]:
        """T_c -> false negatives of easy draws over uniform ones; empty where nothing can be counted."""
        if pairs is None:
            found.notes.append(
                "False negatives are not measured: no user has both a clustered train positive and a new validation positive."
            )
            return {}
        some = "" if pairs.share == 1 else f", a sample of {pairs.share:.1%}"
        found.notes.append(
            f"False negatives over {pairs.users:,} users and {pairs.count.sum():,.0f} pairs of train and validation positive{some}."
        )
        sizes, m_c = self.built.cells.sizes, self.config.m_c
        rate = rates(pairs, num_items)
        easy = {level: easy_rate(pairs, self.draws.apart, sizes, level, m_c, self.seed) for level in levels}
        found.figures |= rate_figures({"easy": easy[self.config.transition_temperature], **rate})
        return {level: value / rate["uniform"] for level, value in easy.items()}

    def _hardness(self, levels: list[float]) -> Drawn:
        quality, held = self.config.quality, self.held
        random = np.random.default_rng([self.seed, 1])
        judge: Judge | None = None
        if self.model is not None:
            from esans.cluster.scored import model_judge

            judge = model_judge(self.model, self.inputs["prepare"], self.built.codes, held, quality.hardness_anchors, self.seed)
        if judge is None:
            judge = CosineJudge.sample(held, self._popularity(), quality.hardness_anchors, random)
        fallback = fallback_of(self.built.cells, self.draws.fallback, judge.c1, judge.c2)
        expected = {level: self.draws.expected(level, self.config.m_c, self.seed) for level in levels}
        return measure(judge, held, fallback, expected, self.config.transition_temperature, quality.hardness_draws, random)

    @cached_property
    def held(self) -> Held:
        """The sampled items under the new codes."""
        return Held.of(self.built.sample, self.built.books)

    def _popularity(self) -> np.ndarray:
        """(H,) train positives of the held items; ones where there is no such table."""
        prepare, item = self.inputs["prepare"], self.held.item
        if not prepare.has("popularity"):
            return np.ones(len(item))
        import pyarrow as pa
        from pyspark.sql import functions as F

        wanted = self.context.spark.createDataFrame(pa.table({ITEM_IDX: item}))
        table = prepare.table("popularity").spark(self.context.spark).join(F.broadcast(wanted), ITEM_IDX).toArrow()
        weight = np.zeros(len(item))
        order = np.argsort(item)
        weight[order[np.searchsorted(item[order], table.column(ITEM_IDX).to_numpy())]] = table.column(COUNT).to_numpy()
        return weight

    def _effective(self, temperature: float) -> float:
        rows = np.unique(np.linspace(0, len(self.draws.apart) - 1, _ROWS).astype(np.int64))
        return effective_clusters(self.draws.first(temperature, rows))

    def _browse(self, found: Findings) -> None:
        from esans.cluster.browse import select
        from esans.cluster.captions import captions, category_shares
        from esans.cluster.page import clusters_page

        config, prepare, temperature = self.config, self.inputs["prepare"], self.config.transition_temperature
        first, expected = partial(self.draws.first, temperature), self.draws.expected(temperature, config.m_c, self.seed)
        cells, seed = self.built.cells, self.seed
        chosen = select(self.held, cells, self.draws.fallback, self.draws.apart, first, expected, config.quality, seed)
        shown = captions(self.context.spark, prepare, chosen.every, self.category, config.quality.thumbnail)
        c1 = [primary.c1 for primary in chosen.primaries]
        shares = category_shares(self.built.codes, prepare, self.category, c1) if self.category is not None else {}
        about = f"{cells.count.sum():,} items in {cells.primaries:,} primaries; items are drawn from a sample of {len(self.held):,}."
        found.pages["clusters.html"] = clusters_page(chosen, shown, shares, temperature, about)

    def _write(self, found: Findings, shut: list[str], out: BundleWriter) -> None:
        from esans.cluster.page import quality_page

        drawn = {caption: svg(figure) for caption, (_, figure) in found.plots.items()}
        found.pages["quality.html"] = quality_page(found.figures, drawn, found.curve, found.notes, shut)
        described: dict[str, Any] = {
            "figures": found.figures,
            "notes": found.notes,
            "curve": [vars(point) for point in found.curve],
            "gate": shut,
            "sizes": self.built.cells.sizes.tolist(),
        }
        files = {"quality.json": json.dumps(described, indent=1), **found.pages}
        for name, text in files.items():
            with out.local(name) as path:
                path.write_text(text, encoding="utf-8")
            self.context.run.text(text, name)
        for name, figure in found.plots.values():
            self.context.run.figure(figure, name)
        out.report(found.figures)


def look(run_id: str, tracking_uri: str) -> str:
    """Where a person finds the report of a build that has no bundle."""
    return f"quality.html and clusters.html among the artifacts of MLflow run {run_id} ({tracking_uri})"
