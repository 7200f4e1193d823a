"""Ours beside the best other method, data set by data set: who is ahead, and what the runs say of why."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.methods.collect import BESIDE, ENCODINGS, METRICS, OURS, Results
from benchmarks.methods.statistics import Estimate
from benchmarks.methods.store import Row
from benchmarks.methods.tables import recall_without
from benchmarks.methods.verdict import p_words, percent

SEMANTIC = ("easy", "easy_virtual", "hard", "hard_virtual")
"""Groups of ours that are drawn by meaning: what tells it from its in-batch part."""
_FEW = 0.05


def rivals(results: Results) -> list[str]:
    """The section: for each of ours a line a data set, and what its semantic groups are worth by the ablations."""
    best = results.best_other(METRICS[0], ENCODINGS)
    if best is None:
        return []
    lines = [f"### Ours beside the best other method, `{best}`", ""]
    for method in OURS:
        for dataset in (*results.pooled, *BESIDE):
            found = results.compare(method, best, METRICS[0], ENCODINGS, [dataset])
            if found is not None:
                lines.append(f"- `{method}` on {dataset}: {percent(found)}, {_outcome(found)}. {_why(results, method, best, dataset)}")
    worth = [line for dataset in results.pooled if (line := _worth(results, dataset))]
    return [*lines, *(["", *worth] if worth else []), ""]


def _outcome(found: Estimate) -> str:
    if found.p >= 0.05:
        return f"not told apart (p {p_words(found.p)})"
    return f"{'a win' if found.value > 1 else 'a loss'} (p {p_words(found.p)})"


def _why(results: Results, method: str, best: str, dataset: str) -> str:
    """Share of the gradient that semantic groups have, and the draws of both side by side."""
    parts = []
    share = semantic_share(results.phase("seed", method=method, dataset=dataset, variant=""))
    if share is not None:
        faded = " once their weight has faded" if method == "esans_plus" else ""
        words = f"its semantic groups have {100 * share:.1f} % of the gradient over negatives in the last epoch"
        parts.append(f"{words}, so that it trains much as its other groups alone{faded}" if share < _FEW else words)
    pairs = {"hardness": "hardness {:+.3f} against {:+.3f}", "effective_negatives": "{:.0f} effective negatives against {:.0f}"}
    for name, text in pairs.items():
        own, other = (results.diagnosis(one, name, [dataset]) for one in (method, best))
        if own is not None and other is not None:
            parts.append(text.format(own, other))
    rates = [results.diagnosis(one, "false_negative_rate", [dataset]) for one in (method, best)]
    if rates[0] is not None and rates[1]:
        parts.append(f"{rates[0] / rates[1]:.2f} times its false negatives")
    words = "; ".join(parts) + "." if parts else "No diagnosis was measured."
    return words[0].upper() + words[1:]


def semantic_share(rows: Sequence[Row]) -> float | None:
    """Mean over runs of the gradient share of the semantic groups; None where no run has it."""
    shares = [row["diagnosis"]["shares"] for row in rows if (row.get("diagnosis") or {}).get("shares")]
    return float(np.mean([sum(found.get(name, 0.0) for name in SEMANTIC) for found in shares])) if shares else None


def _worth(results: Results, dataset: str) -> str:
    """What `esans` loses without each part, where the ablations were run."""
    variants = ("without easy groups", "without hard groups", "without in-batch", "clusters: random")
    parts = [f"{variant} {change}" for variant in variants if (change := recall_without(results, variant, dataset))]
    return f"- `esans` on {dataset}, change of Recall@50 by the ablations: {', '.join(parts)}" if parts else ""
