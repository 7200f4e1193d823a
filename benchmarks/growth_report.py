"""What the runs of catalogue_growth say: rows with standard errors, and a table. No torch: docs are made from it too."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# What the runs said, beside the runs of the methods experiment: docs/results.md is made from both.
SUMMARY = Path(__file__).parent / "methods" / "runs" / "growth.json"
ORDER = ("uniform", "in_batch", "mixed", "midx", "esans", "full_softmax")
BASELINE = "in_batch"
REFERENCE = "full_softmax"
KS = (50, 200)

# A ratio to fewer says little, whatever its standard error.
_ENOUGH_HITS = 100

Row = dict[str, Any]


def growth_rows(work: Path) -> list[Row]:
    """One row for each number of steps, catalogue, content share and method, from the JSON lines in a work folder.

    Users of all seeds together: `recall@k` with its standard error `se@k`; `ratio@k` to in_batch on the same users, with
    `ratio_se@k` of the paired difference; `of_full@k` likewise to the full softmax, where that was run. A ratio to a recall
    of 0 is NaN.
    """
    lines = (work / "cells.jsonl").read_text().splitlines()
    cells: dict[tuple[int, int, float, str], list[Mapping[str, Any]]] = {}
    for record in map(json.loads, lines):
        if record["kind"] == "cell":
            cells.setdefault((record["steps"], record["items"], record["content"], record["method"]), []).append(record)
    rows = []
    for steps, items, content, method in sorted(cells, key=lambda key: (key[0], key[2], key[1], ORDER.index(key[3]))):
        own = cells[steps, items, content, method]
        row: Row = {"items": items, "content": content, "method": method, "seeds": len(own), "steps": steps}
        row["seconds_per_step"] = float(np.mean([record["seconds_per_step"] for record in own]))
        for k in KS:
            hits = _hits(own, k)
            row[f"recall@{k}"], row[f"se@{k}"] = float(hits.mean()), float(hits.std(ddof=1) / np.sqrt(len(hits)))
            for name, other in (("ratio", BASELINE), ("of_full", REFERENCE)):
                if (steps, items, content, other) in cells:
                    pair = _common(own, cells[steps, items, content, other])
                    row[f"{name}@{k}"], row[f"{name}_se@{k}"] = paired_ratio(_hits(pair[0], k), _hits(pair[1], k))
        rows.append(row)
    return rows


def paired_ratio(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Ratio of two means over the same users, and its standard error to first order; NaN where the other mean is 0."""
    mean = theirs.mean()
    if mean == 0:
        return float("nan"), float("nan")
    ratio = ours.mean() / mean
    return float(ratio), float((ours - ratio * theirs).std(ddof=1) / np.sqrt(len(ours)) / mean)


def most_run(rows: Sequence[Row]) -> list[Row]:
    """The rows of the number of steps that most was run with: what the picture and the words are of."""
    [(steps, _)] = Counter(row["steps"] for row in rows).most_common(1)
    return [row for row in rows if row["steps"] == steps]


def growth_table(rows: Sequence[Row]) -> list[str]:
    """Lines of a Markdown table: Recall@50 and @200 with standard errors, and their ratios to in_batch."""
    head = ["steps", "content", "items", "method", "Recall@50", "to in_batch", "Recall@200", "to in_batch", "ms a step"]
    lines = [f"| {' | '.join(head)} |", "|--:|--:|--:|---|--:|--:|--:|--:|--:|"]
    for row in rows:
        cells = [f"{row['steps']:,}", f"{row['content']:g}", f"{row['items']:,}", row["method"]]
        for k in KS:
            cells.append(f"{row[f'recall@{k}']:.4f} ± {row[f'se@{k}']:.4f}")
            cells.append(f"{row[f'ratio@{k}']:.3f} ± {row[f'ratio_se@{k}']:.3f}" if f"ratio@{k}" in row else "")
        lines.append(f"| {' | '.join(cells)} | {1e3 * row['seconds_per_step']:.0f} |")
    return lines


def _hits(records: Sequence[Mapping[str, Any]], k: int) -> np.ndarray:
    joined = "".join(record[f"hits@{k}"] for record in sorted(records, key=lambda record: int(record["seed"])))
    return (np.frombuffer(joined.encode(), np.uint8) == ord("1")).astype(float)


def _common(
    ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    seeds = {record["seed"] for record in ours} & {record["seed"] for record in theirs}
    return [record for record in ours if record["seed"] in seeds], [record for record in theirs if record["seed"] in seeds]


def growth_words(rows: Sequence[Row], method: str = "esans") -> list[str]:
    """A line for each k: the method's ratio to in_batch and to uniform by size, averaged over content shares, and whether it grows.

    Sizes where in_batch has few hits are named as such and not asked whether it grows.
    """
    lines = []
    for k in KS:
        sizes = sorted({row["items"] for row in rows if row["method"] == method and f"ratio@{k}" in row})
        named, told = [], []
        for size in sizes:
            ratio, error, to_uniform = _mean_ratio(rows, method, size, k)
            few = _fewest_hits(rows, size, k) < _ENOUGH_HITS
            named.append(f"{size:,} items {ratio:.3f} ± {error:.3f} ({to_uniform:.2f}{', too few hits to tell' if few else ''})")
            if not few:
                told.append((ratio, error))
        if named:
            words = f"Recall@{k} of `{method}` to {BASELINE} (to uniform), mean over content shares: {', '.join(named)}"
            lines.append(f"- {words}; {_grows(told)}.")
    return lines


def _grows(found: Sequence[tuple[float, float]]) -> str:
    """Whether ratios with standard errors differ between the first size and the last."""
    if len(found) < 2:
        return "too few sizes with enough hits to say whether it grows"
    (first, first_error), (last, last_error) = found[0], found[-1]
    if abs(last - first) <= 2 * float(np.hypot(first_error, last_error)):
        return "no growth beyond noise"
    return f"it {'grows' if last > first else 'shrinks'} with the catalogue"


def _fewest_hits(rows: Sequence[Row], size: int, k: int) -> float:
    """Users whose target in_batch finds, in the content share where they are fewest: p²(1-p)/se² of a mean p of zeros and ones."""
    shown = [(row[f"recall@{k}"], row[f"se@{k}"]) for row in rows if row["method"] == BASELINE and row["items"] == size]
    return min((p * p * (1 - p) / (se * se) if se else float("inf") for p, se in shown), default=0.0)


def _mean_ratio(rows: Sequence[Row], method: str, size: int, k: int) -> tuple[float, float, float]:
    """Ratio to in_batch with its standard error, and ratio to uniform. All content shares have the same users, so errors stay."""
    own = [row for row in rows if row["method"] == method and row["items"] == size and f"ratio@{k}" in row]
    errors = [row[f"ratio_se@{k}"] for row in own]
    uniform = {row["content"]: row[f"recall@{k}"] for row in rows if row["method"] == "uniform" and row["items"] == size}
    to_uniform = [row[f"recall@{k}"] / uniform[row["content"]] for row in own if uniform.get(row["content"])]
    ratio = float(np.mean([row[f"ratio@{k}"] for row in own]))
    return ratio, float(np.mean(errors)), float(np.mean(to_uniform)) if to_uniform else float("nan")
