"""docs/msac.md: the comparison of clusterings as tables and pictures, written by benchmarks.msac_quality."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from esans.bundle import Bundle

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Scores = Mapping[str, Mapping[str, list[float]]]
_COLUMNS = {
    "purity": "genre purity",
    "nmi": "NMI with genres",
    "later": "later films inside",
    "average": "purity and later films, averaged",
    "behaviour": "item graph inside",
}
_FIGURES = {
    "primaries": "primaries",
    "cells": "cells",
    "utilisation.primary": "utilisation of primaries",
    "utilisation.cell": "utilisation of cells",
    "entropy_ratio": "entropy ratio",
    "gini": "Gini",
    "largest_over_mean": "largest over mean size",
    "category.purity": "genre purity, own sizes",
    "coherence.graph_lift": "graph inside, times chance",
    "false_negatives.easy_vs_uniform": "false negatives: easy over uniform",
    "false_negatives.hard_vs_uniform": "false negatives: hard over uniform",
    "false_negatives.popularity_vs_uniform": "false negatives: popularity over uniform",
}


def write_report(
    docs: Path, command: str, scores: Scores, clusters: Mapping[str, Bundle], stability: Mapping[str, float], seeds: int
) -> None:
    """Write the page and its pictures."""
    pictures = docs / "images"
    pictures.mkdir(parents=True, exist_ok=True)
    comparison_figure(scores).savefig(pictures / "msac_comparison.png", dpi=110)
    lines = [
        "# Do the clusters mean anything?",
        "",
        f"Written by `{command}`; every number on this page is printed by it.",
        "",
        "Films with three real modalities: text (title and plot, never the genres), poster, and who rated what (train split).",
        "Genres judge: a film's genre is the rarest that it carries. All ways to cluster get the same number of clusters and the",
        f"same sizes (differing by one at most). Mean over {seeds} k-means seeds, standard deviation behind it.",
        "",
        "- *later films inside*: behaviour coherence. Share of pairs (one of a person's last 20 train films, that person's validation",
        "  film) inside a cluster; no vector has seen them.",
        "- *item graph inside*: share of the weight of the item graph inside a cluster. Behaviour vectors were fitted to it, so that",
        "  clusters of those alone lead here by construction.",
        "",
        *_scores_table(scores),
        "",
        "![clusterings compared](images/msac_comparison.png)",
        "",
        "## As built",
        "",
        *_builds_table(clusters),
        "",
        *_curve_section(clusters, pictures),
        "## Stability",
        "",
        "Adjusted Rand index of the primaries after 5 % of the interactions are taken away and everything is built again:",
        "",
        *[f"- {name}: {value:.3f}" for name, value in stability.items()],
        "",
    ]
    (docs / "msac.md").write_text("\n".join(lines))


def _scores_table(scores: Scores) -> list[str]:
    head = ["clusters from", *_COLUMNS.values()]
    rows = [
        [name, *(f"{np.mean(found[column]):.3f} ± {np.std(found[column]):.3f}" for column in _COLUMNS)]
        for name, found in sorted(scores.items(), key=lambda pair: float(np.mean(pair[1]["average"])))
    ]
    return _markdown(head, rows)


def _builds_table(clusters: Mapping[str, Bundle]) -> list[str]:
    rows = [
        [words, *(f"{bundle.figures[name]:.3f}" if name in bundle.figures else "" for bundle in clusters.values())]
        for name, words in _FIGURES.items()
    ]
    return _markdown(["", *clusters], rows)


def _curve_section(clusters: Mapping[str, Bundle], pictures: Path) -> list[str]:
    price_figure(clusters).savefig(pictures / "msac_price.png", dpi=110)
    rows = [
        [name, f"easy, T_c = {point['temperature']:g}", f"{point['hardness']:.3f}", f"{point['ratio']:.2f}"]
        for name, cluster in clusters.items()
        for point in read_curve(cluster)
    ]
    rows += [[name, "hard", *(f"{value:.2f}" for value in hard_point(cluster))] for name, cluster in clusters.items()]
    return [
        "## The price of hardness",
        "",
        "Easy draws at other temperatures T_c: the colder, the nearer the clusters, the harder the negatives, and the more of them",
        "are films that the same person goes on to watch. There is no threshold; this is the trade. Hard draws do not depend on T_c.",
        "",
        *_markdown(["build", "draw", "mean cosine of anchor and negative", "false negatives over uniform"], rows),
        "",
        "![false negatives against hardness](images/msac_price.png)",
        "",
    ]


def _markdown(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] + ["--:"] * (len(head) - 1), *rows)]


def comparison_figure(scores: Scores) -> Figure:
    """Genre purity against behaviour coherence, one point a method."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    for name, found in scores.items():
        x, y = np.mean(found["later"]), np.mean(found["purity"])
        axes.errorbar(x, y, xerr=np.std(found["later"]), yerr=np.std(found["purity"]), fmt="o")
        axes.annotate(name, (x, y), xytext=(6, 4), textcoords="offset points")
    axes.set(xlabel="share of later films inside the cluster", ylabel="genre purity", title="equal K, equal sizes")
    axes.margins(0.2)
    return figure


def read_curve(cluster: Bundle) -> list[dict[str, float]]:
    """Points of easy draws over T_c from the cluster stage's quality.json."""
    with cluster.local("quality.json") as path:
        return list(json.loads(path.read_text()).get("curve", []))


def hard_point(cluster: Bundle) -> tuple[float, float]:
    """Mean hardness of hard draws, and their false-negative rate over that of uniform ones."""
    return cluster.figures["hardness.hard.mean"], cluster.figures["false_negatives.hard_vs_uniform"]


def price_figure(clusters: Mapping[str, Bundle]) -> Figure:
    """False-negative rate over that of uniform draws, against how hard the draws are: easy ones over T_c, and the hard ones."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name, cluster in clusters.items():
        curve = read_curve(cluster)
        (line,) = axes.plot(
            [point["hardness"] for point in curve], [point["ratio"] for point in curve], "o-", label=f"{name}: easy over T_c"
        )
        axes.plot(*hard_point(cluster), "*", markersize=12, color=line.get_color(), label=f"{name}: hard")
        for point in curve:
            axes.annotate(
                f"{point['temperature']:g}", (point["hardness"], point["ratio"]), xytext=(3, 6), textcoords="offset points", fontsize=7
            )
    first = next(iter(clusters.values()))
    axes.plot(first.figures["hardness.uniform.mean"], 1, "s", color="grey", label="uniform")
    axes.set(xlabel="mean cosine of anchor and negative", ylabel="false negatives over uniform (log)", yscale="log")
    axes.legend()
    return figure
