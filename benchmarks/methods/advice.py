"""What a reader should take from the page, in a few sentences made from the runs, and how far the budget decides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.methods.collect import BESIDE, ENCODINGS, METRICS, NOT_RIVALS, OURS, REFERENCES, Results
from benchmarks.methods.protocol import PROTOCOL
from benchmarks.methods.tables import recall_without, relative_cost
from benchmarks.methods.verdict import percent

_LEVEL = 0.05


def advice(results: Results) -> list[str]:
    """The section that stands first; empty until something can be averaged."""
    best = results.best_other(METRICS[0], ENCODINGS) if results.pooled else None
    if best is None:
        return []
    lines = [*_leader(results, best), *_semantic(results, best), *_losers(results), *_references_ahead(results), *_budget(results)]
    return ["## What to take from this", "", *lines, ""] if lines else []


def _leader(results: Results, best: str) -> list[str]:
    """The best other method, who can't be told from it, and the cheapest of these."""
    lines = {line.method: line for line in results.lines(ENCODINGS, results.pooled) if line.method not in (*NOT_RIVALS, *REFERENCES)}
    equal = [name for name, line in lines.items() if METRICS[0] in line.holm and line.to_best[METRICS[0]].p >= _LEVEL]
    costs = {name: relative_cost(results, name) for name in (best, *equal)}
    known = {name: cost for name, cost in costs.items() if np.isfinite(cost)}
    words = f"- Of the methods that are not ours `{best}` has the highest mean Recall@50"
    if equal:
        words += f"; {', '.join(f'`{name}`' for name in equal)} can't be told from it"
    if known:
        cheapest = min(known, key=known.__getitem__)
        words += f". The cheapest of these, `{cheapest}`, costs {known[cheapest]:.2f} times a step of `uniform`: start there"
    return [f"{words}."]


def _semantic(results: Results, best: str) -> list[str]:
    """Ours beside the best other, and what the meaning of the clusters is worth by the variant without it."""
    parts = []
    for method in OURS:
        pair = results.compare(method, best, METRICS[0], ENCODINGS, results.pooled)
        if pair is not None:
            told = "not told apart" if pair.p >= _LEVEL else "above it" if pair.value > 1 else "below it"
            parts.append(f"`{method}` {percent(pair, interval=False)} ({told})")
    if not parts:
        return []
    words = f"- Semantic negatives against `{best}`: {', '.join(parts)}."
    random = [f"{dataset} {change}" for dataset in results.pooled if (change := recall_without(results, "clusters: random", dataset))]
    if random:
        words += f" With items dealt to the clusters at random Recall@50 of `esans` changes by: {', '.join(random)}."
        if not any("**" in change for change in random):
            words += " So on these catalogues what the clusters mean adds nothing that can be measured."
    return [words, *_controls(results)]


def _controls(results: Results) -> list[str]:
    """Beside in-batch: as many plain draws as semantic ones."""
    plain, ours = [], []
    for dataset in results.pooled:
        controls = results.phase("controls", dataset=dataset, variant="in-batch and 15 uniform")
        seeds = [results.phase("seed", dataset=dataset, method=name, variant="") for name in ("in_batch", "esans")]
        control, base, esans = ({row["seed"]: row["test"][METRICS[0]] for row in rows} for rows in (controls, *seeds))
        for seed in sorted(control.keys() & base.keys() & esans.keys()):
            plain.append(control[seed] / base[seed] - 1)
            ours.append(esans[seed] / base[seed] - 1)
    if not plain:
        return []
    return [
        f"- In-batch negatives with 15 plain uniform draws beside them, untuned, change its Recall@50 by {100 * np.mean(plain):+.1f} %, and"
        f" `esans`, with as many semantic ones, by {100 * np.mean(ours):+.1f} % ({len(plain)} pairs of runs)."
    ]


def _losers(results: Results) -> list[str]:
    names = []
    for method in results.methods:
        pair = results.compare(method, "uniform", METRICS[0], ENCODINGS, results.pooled)
        if method not in REFERENCES and pair is not None and pair.high < 1:
            names.append(f"`{method}` ({percent(pair, interval=False)})")
    return [f"- Below `uniform` here, so not worth their cost: {', '.join(names)}."] if names else []


def _references_ahead(results: Results) -> list[str]:
    """Data sets on which a reference without towers is ahead of everything that was trained, and how much of that the budget explains."""
    lines = []
    for dataset in (*results.pooled, *BESIDE):
        means = {name: float(cell.means[METRICS[0]].mean()) for (name, where), cell in results.cells[ENCODINGS].items() if where == dataset}
        trained = {name: mean for name, mean in means.items() if name not in REFERENCES}
        if not trained or max(means, key=means.__getitem__) in trained:
            continue
        first, runner_up = max(means, key=means.__getitem__), max(trained, key=trained.__getitem__)
        settings = results.cells[ENCODINGS][first, dataset].rows[0].get("params") or {}
        setting = f" ({', '.join(str(value) for value in settings.values())})" if settings else ""
        ahead = f"{means[first]:.4f}, the best of them `{runner_up}` {trained[runner_up]:.4f}"
        words = f"- On {dataset} `{first}`{setting} is ahead of every trained method: {ahead}."
        long = {name: row["test"][METRICS[0]] for name, (_, row) in results.longer(dataset).items()}
        if long:
            top = max(long, key=long.__getitem__)
            still = "the budget is not all of it" if long[top] < means[first] else "the budget was the reason"
            words += f" With {PROTOCOL['longer']['times']} times the epochs `{top}` reaches {long[top]:.4f}: {still}."
        lines.append(words)
    return lines


def _budget(results: Results) -> list[str]:
    """How many runs the budget ended, and what more of it does to the gain over uniform."""
    ended, runs = results.ended_by_budget(results.pooled)
    if not runs:
        return []
    words = (
        f"- Of {runs} tested runs on these data sets {ended} were best in the last epoch that the protocol allows, so speed of learning is"
        " part of every number here."
    )
    changes = []
    for method in ("in_batch", *OURS):
        pairs = [results.longer(dataset) for dataset in (*results.pooled, *BESIDE)]
        gains = [_gains(pair, method) for pair in pairs if method in pair and "uniform" in pair]
        if gains:
            short, long = np.mean(gains, axis=0)
            changes.append(f"`{method}` {100 * short:+.1f} to {100 * long:+.1f} % ({len(gains)} data sets)")
    if changes:
        words += (
            f" With {PROTOCOL['longer']['times']} times the epochs, one seed, the mean gain over `uniform` goes from {', '.join(changes)}."
        )
    return [words]


def _gains(pairs: dict[str, tuple[dict[str, object], dict[str, object]]], method: str) -> Sequence[float]:
    own, base = pairs[method], pairs["uniform"]
    return [own[place]["test"][METRICS[0]] / base[place]["test"][METRICS[0]] - 1 for place in (0, 1)]  # type: ignore[index]
