"""The store, arranged by method and data set for tables, tests and plots."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from benchmarks.methods.protocol import PROTOCOL
from benchmarks.methods.statistics import Estimate, Floats, Resamples, Sample, holm, ratio, resample
from benchmarks.methods.store import WITHIN_WALL, Row, Store

HEADLINE = ("movielens", "online_retail", "amazon_beauty")
"""Data sets that are averaged."""
BESIDE = ("basket_completion",)
"""Shown, not averaged: the same shop as online_retail."""
DATASETS = (*HEADLINE, *BESIDE)
OURS = ("esans", "esans_plus")
REFERENCES = {"most_popular": "popularity", "itemknn": "itemknn", "als": "als", "bpr": "bpr"}
"""Names here -> `method` of the rows of phase "reference": popularity is a sampler's name too."""
STOCHASTIC_REFERENCES = ("als", "bpr")
BOUND = "full_softmax"
"""Every item as a negative: what sampling estimates, no method of sampling."""
NOT_RIVALS = (*OURS, "esans_only", BOUND)
SAMPLERS = (
    *("uniform", "popularity", "in_batch", "mixed", "cross_batch", "category", "dns", "mixgcf", "fairneg", "ada_tau", "simans"),
    *("ahns", "mochi", "midx", "gbce", "esans_only", "esans", "esans_plus", BOUND),
)
METHODS = (*SAMPLERS, *REFERENCES)
NO_CATEGORY = ("online_retail", "basket_completion")
"""Data sets whose items have no category, so that sampling inside one cannot be run."""
METRICS = ("recall@50", "recall@200")
ENCODINGS, WALL = "encodings", "wall"
"""The two comparisons: at equal item encodings per example, and within equal training seconds."""


@dataclass
class Cell:
    """One method on one data set under one comparison: what each seed reached in `METRICS`, in [0, 1], and per user."""

    rows: list[Row]
    means: dict[str, Floats] = field(default_factory=dict)
    """Metric -> (S,) means over users."""
    samples: dict[str, Sample] = field(default_factory=dict)
    """Metric -> recalls by user; empty where a seed has none."""


@dataclass(frozen=True)
class Line:
    """One method of a table: ratios to uniform and to the best other method, by metric; Holm's p-value beside the plain one."""

    method: str
    to_uniform: dict[str, Estimate]
    to_best: dict[str, Estimate]
    holm: dict[str, float]


class Results:
    """What the runs say, of the protocol of the latest run.

    Args:
        store: of the experiment.
        resamples: draws of the bootstrap.
    """

    def __init__(self, store: Store, resamples: int = 10_000) -> None:
        self.store, self.resamples = store, resamples
        rows = store.rows()
        self.protocol = str(rows[-1].get("protocol", "v1")) if rows else "v1"
        self.rows = [row for row in rows if row.get("protocol", "v1") == self.protocol]
        self.left_out = len(rows) - len(self.rows)

    def phase(self, name: str, **equals: Any) -> list[Row]:
        """Rows of a phase whose fields have these values."""
        return [row for row in self.rows if row["phase"] == name and all(row.get(key) == value for key, value in equals.items())]

    @cached_property
    def methods(self) -> list[str]:
        """Every method of the protocol, and any other that was run."""
        extra = {row["method"] for row in self.phase("seed")} - set(METHODS)
        return [*METHODS, *sorted(extra)]

    @cached_property
    def cells(self) -> dict[str, dict[tuple[str, str], Cell]]:
        """Comparison -> (method, data set) -> cell, where at least one seed was tested."""
        found: dict[tuple[str, str], dict[int, Row]] = defaultdict(dict)
        names = {stored: name for name, stored in REFERENCES.items()}
        for row in self.rows:
            if row["phase"] in ("seed", "reference") and not row.get("variant") and row.get("test"):
                method = str(names.get(row["method"], row["method"]) if row["phase"] == "reference" else row["method"])
                found[method, row["dataset"]][row["seed"]] = row
        cells: dict[str, dict[tuple[str, str], Cell]] = {ENCODINGS: {}, WALL: {}}
        for (method, dataset), by_seed in found.items():
            rows = [by_seed[seed] for seed in sorted(by_seed)]
            cells[ENCODINGS][method, dataset] = self._cell(rows, method, ENCODINGS)
            timed = rows if method in REFERENCES else [row for row in rows if row.get("wall")]
            if timed:
                cells[WALL][method, dataset] = self._cell(timed, method, WALL)
        return cells

    def _cell(self, rows: list[Row], method: str, comparison: str) -> Cell:
        """References train in seconds and have one result, which stands in both comparisons."""
        within = comparison == WALL and method not in REFERENCES
        cell = Cell(rows)
        kept = [(self.store.ranks(row["key"] + WITHIN_WALL) if within else None) or self.store.ranks(row["key"]) for row in rows]
        for metric in METRICS:
            cell.means[metric] = np.array([row["wall" if within else "test"][metric] for row in rows], np.float64)
            if any(ranks is None for ranks in kept):
                continue
            users = [np.argsort(ranks.user_idx) for ranks in kept if ranks is not None]
            arrays = [getattr(ranks, metric.replace("@", ""))[order] for ranks, order in zip(kept, users, strict=True)]
            if len({array.size for array in arrays}) > 1:
                raise ValueError(f"seeds of run '{rows[0]['key']}' were tested on different users; delete all but one kind")
            table = np.stack(arrays)
            # Users of the best epoch stand in for those of the epoch within the time: scaled to its mean.
            table *= (cell.means[metric] / np.maximum(table.mean(1), 1e-12)).astype(np.float32)[:, None]
            fixed = method in REFERENCES and method not in STOCHASTIC_REFERENCES
            cell.samples[metric] = Sample(table, deterministic=fixed)
        return cell

    @cached_property
    def _drawn(self) -> dict[str, Resamples]:
        """Data set -> resamples of every method, metric and comparison: one drawing of users for all, another for each data set."""
        return {
            dataset: resample(
                {
                    _name(method, metric, comparison): sample
                    for comparison, cells in self.cells.items()
                    for (method, where), cell in cells.items()
                    if where == dataset
                    for metric, sample in cell.samples.items()
                },
                self.resamples,
                seed,
            )
            for seed, dataset in enumerate(DATASETS)
        }

    def compare(self, a: str, b: str, metric: str, comparison: str, datasets: Sequence[str] = HEADLINE) -> Estimate | None:
        """Ratio of `a` to `b` averaged over data sets; None unless both have per-user recalls on each of them."""
        names = [_name(method, metric, comparison) for method in (a, b)]
        drawn = [self._drawn[dataset] for dataset in datasets]
        if not drawn or any(name not in each.measured for each in drawn for name in names):
            return None
        return ratio(drawn, *names)

    def seeds_suffice(self, method: str, comparison: str, datasets: Sequence[str]) -> bool:
        """Whether a method's seed noise is known on each data set."""
        cells = [self.cells[comparison].get((method, dataset)) for dataset in datasets]
        return all(cell is not None and all(sample.seeds_suffice for sample in cell.samples.values()) for cell in cells)

    @cached_property
    def pooled(self) -> tuple[str, ...]:
        """Headline data sets on which uniform was tested: those that can be averaged."""
        return tuple(dataset for dataset in HEADLINE if ("uniform", dataset) in self.cells[ENCODINGS])

    def best_other(self, metric: str, comparison: str) -> str | None:
        """The rival of highest mean ratio to uniform; only methods tested on all pooled data sets can be it."""
        ranked = {
            method: found.value
            for method in self.methods
            if method not in NOT_RIVALS and (found := self.compare(method, "uniform", metric, comparison, self.pooled)) is not None
        }
        return max(ranked, key=ranked.__getitem__) if ranked else None

    @cached_property
    def better_of_ours(self) -> str | None:
        """Which of esans and esans_plus stands higher above uniform in Recall@50."""
        found = {name: self.compare(name, "uniform", METRICS[0], ENCODINGS, self.pooled) for name in OURS}
        known = {name: estimate.value for name, estimate in found.items() if estimate is not None}
        return max(known, key=known.__getitem__) if known else None

    def lines(self, comparison: str, datasets: Sequence[str]) -> list[Line]:
        """One line a method over these data sets; empty estimates where something was not run."""
        lines = []
        best = {metric: self.best_other(metric, comparison) for metric in METRICS}
        p_values: dict[str, dict[str, float]] = {metric: {} for metric in METRICS}
        found: dict[str, tuple[dict[str, Estimate], dict[str, Estimate]]] = {}
        for method in self.methods:
            estimates: tuple[dict[str, Estimate], dict[str, Estimate]] = ({}, {})
            for metric in METRICS:
                for into, other in zip(estimates, ("uniform", best[metric]), strict=True):
                    if other is not None and other != method and (pair := self.compare(method, other, metric, comparison, datasets)):
                        into[metric] = pair
                if metric in estimates[1] and self.seeds_suffice(method, comparison, datasets):
                    p_values[metric][method] = estimates[1][metric].p
            found[method] = estimates
        adjusted = {metric: holm(values) for metric, values in p_values.items()}
        for method, (to_uniform, to_best) in found.items():
            own = {metric: values[method] for metric, values in adjusted.items() if method in values}
            lines.append(Line(method, to_uniform, to_best, own))
        return lines

    def ended_by_budget(self, datasets: Sequence[str]) -> tuple[int, int]:
        """Tested runs whose best epoch was the last that the protocol allows, and all tested runs."""
        cells = [cell for (method, dataset), cell in self.cells[ENCODINGS].items() if dataset in datasets and method not in REFERENCES]
        rows = [row for cell in cells for row in cell.rows if row.get("best_epoch") is not None]
        return sum(row["best_epoch"] + 1 >= PROTOCOL["epochs"].get(row["dataset"], 0) for row in rows), len(rows)

    def longer(self, dataset: str) -> dict[str, tuple[Row, Row]]:
        """Method -> its run under the protocol, and the one of the same seed that was trained longer."""
        long = {row["method"]: row for row in self.phase("steps", dataset=dataset)}
        short = {name: self.phase("seed", method=name, dataset=dataset, seed=row["seed"], variant="") for name, row in long.items()}
        return {name: (short[name][0], long[name]) for name in self.methods if name in long and short[name]}

    def missing(self, comparison: str = ENCODINGS) -> list[tuple[str, str]]:
        """(method, data set) that were not run, those without a category left out where sampling inside one is meant."""
        return [
            (method, dataset)
            for method in self.methods
            for dataset in DATASETS
            if (method, dataset) not in self.cells[comparison] and not (method == "category" and dataset in NO_CATEGORY)
        ]

    def seeds(self) -> int:
        """Smallest number of seeds of a trained method that was tested."""
        counts = [len(cell.rows) for (method, _), cell in self.cells[ENCODINGS].items() if method not in REFERENCES]
        return min(counts, default=0)

    def trials(self) -> dict[tuple[str, str], int]:
        """(method, data set) -> tuning trials."""
        found: dict[tuple[str, str], set[int]] = defaultdict(set)
        for row in self.phase("tune"):
            if row.get("trial") is not None:
                found[row["method"], row["dataset"]].add(row["trial"])
        return {key: len(trials) for key, trials in found.items()}

    def diagnosis(self, method: str, name: str, datasets: Sequence[str] = HEADLINE) -> float | None:
        """Mean over data sets and seeds of a number of the diagnosis; None where no run has it."""
        values = [
            np.mean(numbers)
            for dataset in datasets
            if (cell := self.cells[ENCODINGS].get((method, dataset))) and (numbers := list(_numbers(cell.rows, name)))
        ]
        return float(np.mean(values)) if values else None


def _numbers(rows: Sequence[Row], name: str) -> Iterator[float]:
    for row in rows:
        value = (row.get("diagnosis") or {}).get(name)
        if isinstance(value, (int, float)) and np.isfinite(value):
            yield float(value)


def _name(method: str, metric: str, comparison: str) -> str:
    return f"{method} {metric} {comparison}"
