"""What a comparison says: values with intervals, differences to the baseline with p-values, by slice too, and differing keys."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from esans.compare.differences import configuration, differing
from esans.compare.runs import Entry
from esans.compare.users import UserValues, aligned, common_metrics
from esans.retrieval.bootstrap import Interval, bootstrap_interval
from esans.retrieval.paired import PairedResult, paired_bootstrap
from esans.retrieval.slices import ALL, HISTORY_LENGTH

SHOWN_FIRST = ("recall@10", "recall@50", "recall@200", "ndcg@50", "mrr")
_HEADLINE = "recall@50"
_NORMAL_95 = 1.96
_RANGE = re.compile(r"(\d+)(?:-(\d+)|\+)?$")


@dataclass(frozen=True)
class Cell:
    """One run's value of one metric, and against the baseline: the difference with its interval, p, and p after Holm's correction.

    The baseline itself, and slices that cannot be paired, have no `paired`.
    """

    value: Interval
    paired: PairedResult | None = None
    holm: float = math.nan


@dataclass(frozen=True)
class SliceRow:
    """One slice of the headline metric: cells in the order of the entries, None where a run has no users there."""

    slice: str
    label: str
    users: int
    cells: list[Cell | None]


@dataclass(frozen=True)
class Comparison:
    """Everything that the terminal, the page and the JSON show. The baseline is the first entry."""

    entries: Sequence[Entry]
    split: str
    users: int
    cells: Mapping[str, list[Cell]]
    """Metric -> cells in the order of the entries."""
    slices: list[SliceRow]
    keys: list[tuple[str, list[str | None]]]
    """Keys that differ, with their values in the order of the entries; None where an entry has no such stage."""
    resamples: int
    notes: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Shown names, the baseline first."""
        return [entry.name for entry in self.entries]

    @property
    def headline(self) -> str:
        """The metric of slices and pictures."""
        return headline_of(list(self.cells))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; what cannot be computed is None."""
        named = {metric: dict(zip(self.names, map(_plain, cells), strict=True)) for metric, cells in self.cells.items()}
        slices = [
            {"slice": row.slice, "label": row.label, "users": row.users, "runs": dict(zip(self.names, map(_plain, row.cells), strict=True))}
            for row in self.slices
        ]
        return {
            "baseline": self.names[0],
            "split": self.split,
            "users": self.users,
            "resamples": self.resamples,
            "bundles": {entry.name: entry.bundle.uri for entry in self.entries},
            "metrics": named,
            "slices_of": self.headline,
            "slices": slices,
            "differences": {key: dict(zip(self.names, values, strict=True)) for key, values in self.keys},
            "notes": self.notes,
        }


def compare(
    entries: Sequence[Entry],
    split: str,
    wanted: Sequence[str] = (),
    *,
    common_only: bool = False,
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare evaluated runs with the first of them, over the users that all tested.

    Args:
        entries: two or more, the baseline first.
        split: validation or test.
        wanted: metrics; by default the usual ones that all entries have.
        common_only: go on where the tested users differ, with the common ones.
        resamples: draws of each bootstrap.
        seed: of the draws.

    Raises:
        CompareError: users or metrics do not allow it.
    """
    metrics = common_metrics(entries, wanted, SHOWN_FIRST)
    users, notes = aligned(entries, split, metrics, common_only)
    cells = {metric: _cells([part.values[metric] for part in users], resamples, seed) for metric in metrics}
    headline = headline_of(metrics)
    slices = [*_by_history(entries, users, split, headline, resamples, seed)]
    if notes:
        notes = [*notes, "Slices other than by history length are left out: their values are over each run's own users."]
    else:
        slices += _tabled(entries, split, headline)
    keys = differing([configuration(entry.bundle) for entry in entries])
    return Comparison(entries, split, len(users[0].keys), cells, slices, keys, resamples, notes)


def headline_of(metrics: Sequence[str]) -> str:
    """recall@50 where it is among the metrics, else the first."""
    return _HEADLINE if _HEADLINE in metrics else metrics[0]


def holm(ps: Sequence[float]) -> list[float]:
    """p-values after Holm's step-down correction, in the same order; NaN stays NaN and does not count."""
    known = sorted((p, place) for place, p in enumerate(ps) if not math.isnan(p))
    result, highest = [math.nan] * len(ps), 0.0
    for rank, (p, place) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        result[place] = highest
    return result


def _cells(columns: Sequence[np.ndarray], resamples: int, seed: int) -> list[Cell]:
    """One cell an entry from (n,) values of the same users; Holm's family is the runs that are tested against the baseline."""
    paired = [paired_bootstrap(column, columns[0], resamples, seed) for column in columns[1:]]
    corrected = holm([result.p for result in paired])
    intervals = [bootstrap_interval(column, resamples, seed) for column in columns]
    return [Cell(intervals[0])] + [Cell(*cell) for cell in zip(intervals[1:], paired, corrected, strict=True)]


def _by_history(
    entries: Sequence[Entry], users: Sequence[UserValues], split: str, metric: str, resamples: int, seed: int
) -> list[SliceRow]:
    """Slices by history length, cut anew from the users, so that they are paired too."""
    rows = []
    for label in _labels(entries[0], split, HISTORY_LENGTH):
        match = _RANGE.match(label)
        if match is None:
            continue
        low, high = int(match[1]), int(match[2] or match[1])
        top = np.inf if label.endswith("+") else high
        inside = (users[0].seen >= low) & (users[0].seen <= top)
        if inside.any():
            columns = [part.values[metric][inside] for part in users]
            rows.append(SliceRow(HISTORY_LENGTH, label, int(inside.sum()), list(_cells(columns, resamples, seed))))
    return rows


def _tabled(entries: Sequence[Entry], split: str, metric: str) -> list[SliceRow]:
    """Slices as the runs' own tables have them. They count targets of a user apart, so they are not paired."""
    tables = [_slice_values(entry, split, metric) for entry in entries]
    labels = list(dict.fromkeys(key for table in tables for key in table))
    rows = []
    for key in sorted(labels, key=lambda key: (key[0], key[1])):
        found = [table.get(key) for table in tables]
        cells = [Cell(row["interval"]) if row is not None else None for row in found]
        users = max(row["users"] for row in found if row is not None)
        rows.append(SliceRow(key[0], key[2], users, cells))
    return rows


def _slice_values(entry: Entry, split: str, metric: str) -> dict[tuple[str, int, str], dict[str, Any]]:
    rows = entry.bundle.table("metrics").arrow().to_pylist()
    mine = [row for row in rows if (row["method"], row["split"], row["metric"]) == (entry.method, split, metric)]
    return {
        (row["slice"], int(row["place"]), row["label"]): {"interval": _interval(row), "users": int(row["users"])}
        for row in mine
        if row["slice"] not in (ALL, HISTORY_LENGTH)
    }


def _interval(row: Mapping[str, Any]) -> Interval:
    """The table's own interval where it has one, else the normal one of its standard error; every metric lies in [0, 1]."""
    value, error = float(row["value"]), float(row["standard_error"])
    ends = row.get("low", max(value - _NORMAL_95 * error, 0.0)), row.get("high", min(value + _NORMAL_95 * error, 1.0))
    return Interval(value, *(math.nan if end is None or math.isnan(error) else float(end) for end in ends))


def _labels(entry: Entry, split: str, name: str) -> list[str]:
    rows = entry.bundle.table("metrics").arrow(["method", "split", "slice", "place", "label"]).to_pylist()
    found = {
        (int(row["place"]), row["label"]) for row in rows if (row["method"], row["split"], row["slice"]) == (entry.method, split, name)
    }
    return [label for _, label in sorted(found)]


def _plain(cell: Cell | None) -> dict[str, Any] | None:
    if cell is None:
        return None
    flat: dict[str, Any] = asdict(cell.value)
    if cell.paired is not None:
        paired = asdict(cell.paired)
        flat |= {"difference": paired["difference"], "difference_low": paired["low"], "difference_high": paired["high"]}
        flat |= {"ratio": paired["ratio"], "ratio_low": paired["ratio_low"], "ratio_high": paired["ratio_high"]}
        flat |= {"p": paired["p"], "p_holm": cell.holm}
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in flat.items()}
