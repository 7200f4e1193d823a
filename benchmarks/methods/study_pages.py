"""Sections of the studies: recall against the number of negatives, against steps trained, and against catalogue size."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.growth_report import SUMMARY, growth_table, growth_words
from benchmarks.methods.collect import DATASETS, METRICS, Results
from benchmarks.methods.store import Row
from benchmarks.methods.tables import longer_table
from benchmarks.methods.verdict import NOT_RUN


def studies(results: Results, pictures: dict[str, str], growth: Sequence[Row]) -> list[str]:
    """Recall against the number of negatives, steps and catalogue size."""
    titles = {
        "negatives": "Recall against encoded negatives per example",
        "steps": "Recall against steps trained",
        "growth": "Does the gain grow with the catalogue?",
    }
    words = {"negatives": _encodings(results), "steps": [*_bands(results, pictures), *longer_table(results)], "growth": _growth(growth)}
    lines = []
    for name, title in titles.items():
        shown = f"![{title}]({pictures[name]})" if name in pictures else f"{NOT_RUN.capitalize()}."
        lines += [f"## {title}", "", shown, "", *words[name]]
    return lines


def _encodings(results: Results) -> list[str]:
    """Where each method starts, ends and is best, by data set."""
    lines = []
    for dataset in DATASETS:
        parts = []
        rows = results.phase("encodings", dataset=dataset)
        for method in dict.fromkeys(row["method"] for row in rows):
            points = sorted(
                (row["encodings_per_example"], row["test"][METRICS[0]]) for row in rows if row["method"] == method and row["test"]
            )
            if points:
                (first, start), (last, end), (at, best) = points[0], points[-1], max(points, key=lambda point: point[1])
                ends = f"{start:.4f} with {_number(first)}, {end:.4f} with {_number(last)}"
                parts.append(f"`{method}` {ends}, best {best:.4f} with {_number(at)}")
        if parts:
            lines.append(f"- {dataset}: {'; '.join(parts)}")
    if not lines:
        return []
    return [
        "Recall@50 by item encodings an example beyond the positive. `mixed` is in-batch beside a pool that the batch shares. One seed;",
        "temperature and weights as tuned for the comparison, so that more semantic draws also weigh more.",
        "",
        *lines,
        "",
    ]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:.2g}"


def _growth(growth: Sequence[Row]) -> list[str]:
    if not growth:
        return []
    lines = [
        "`python -m benchmarks.catalogue_growth`, with `--steps` as the first column has it; its docstring says how the catalogues are",
        "made. The picture is of the number of steps that most cells have. One seed, settings tuned on the smallest catalogue; ± is the",
        "standard error over users, for ratios that of the paired difference. A gain over `uniform` that `in_batch` has too is no gain of",
        "the semantic groups. Other work ran beside some rows: compare ms a step within a block.",
        "",
    ]
    for steps in sorted({row["steps"] for row in growth}):
        own = [row for row in growth if row["steps"] == steps]
        lines += [f"{steps:,} steps:", "", *growth_words(own), ""]
    return [*lines, *growth_table(growth), ""]


def _bands(results: Results, pictures: dict[str, str]) -> list[str]:
    """What the bands of the curves are, where the curves are those of the seeds."""
    if "steps" not in pictures or results.phase("steps"):
        return []
    return [
        "Bands are one standard deviation over seeds, for a few methods. A seed that has stopped early is in no later point, so",
        "the ends of the curves hold the seeds that still rose.",
        "",
    ]


def growth_summary(folder: Path) -> list[Row]:
    """Rows of the study on generated catalogues, where it has been made; they lie beside the runs."""
    path = folder / SUMMARY.name
    return list(json.loads(path.read_text())) if path.is_file() else []
