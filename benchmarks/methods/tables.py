"""Tables beside the comparison: what each part of the method is worth, what it has to beat, what each method costs, longer training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.methods.collect import DATASETS, METRICS, REFERENCES, Results
from benchmarks.methods.protocol import PROTOCOL
from benchmarks.methods.store import Row
from benchmarks.methods.verdict import NOT_RUN, markdown

REBUILT = "clusters: all"
"""The variant with clusters of all modalities that the other ones made in memory are compared with."""
_REBUILT_KINDS = tuple(f"clusters: {kind}" for name in ("text", "image", "behaviour") for kind in (name, f"without {name}"))
_BESIDE_CONTROLS = ("uniform", "in_batch", "esans", "esans_plus")


def ablation_table(results: Results) -> list[str]:
    """Difference of each variant to the full method, with the noise that seeds give such a difference."""
    rows = results.phase("ablation")
    lines = ["## Ablations", ""]
    wanted = _expected_variants()
    found: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        found[row["method"], row["variant"], row["dataset"]].append(row)
    order = list(dict.fromkeys([*wanted, *((method, variant) for method, variant, _ in found)]))
    if not order:
        return [*lines, f"{NOT_RUN.capitalize()}.", ""]
    datasets = [dataset for dataset in DATASETS if any(where == dataset for *_, where in found)] or list(DATASETS)
    table, absent = [], []
    for method, variant in order:
        for dataset in datasets:
            runs = found.get((method, variant, dataset), [])
            full = results.phase("seed", method=method, dataset=dataset, variant="")
            if runs and full:
                base = found.get((method, REBUILT, dataset), []) if variant in _REBUILT_KINDS else []
                mark = f" (against {REBUILT.removeprefix('clusters: ')})" if base else ""
                table.append([f"`{method}`: {variant}{mark}", dataset, str(len(runs)), *change_of(runs, full, base)])
        lacking = [dataset for dataset in datasets if (method, variant, dataset) not in found]
        if lacking:
            absent.append(f"- `{method}`: {variant}{'' if lacking == datasets else ' on ' + ', '.join(lacking)}")
    if not table:
        return [*lines, f"{NOT_RUN.capitalize()}: {len(order)} variants.", ""]
    head = ["variant", "data set", "seeds", "Recall@50, change", "Recall@200, change", "split"]
    return [
        *lines,
        "Change of recall against the full method with the same seeds on the same data set, in points of recall (0.01 = one user in a",
        "hundred); ± is what seed noise gives such a difference, as if a variant's luck were its own: sqrt(2 / seeds) times the standard",
        "deviation of the full method's seeds. Bold where the change is more than twice it; of so many, a few are by chance. Clusters made",
        "of vectors are clustered in memory, and compare with those of all modalities made likewise; vectors stay as all modalities have",
        "aligned them, so that what is left out of the clusters is still in the alignment.",
        "",
        *markdown(head, table),
        "",
        *([f"{NOT_RUN.capitalize()}, or not to be run for lack of the modality or of categories:", "", *absent, ""] if absent else []),
    ]


def change_of(runs: Sequence[Row], full: Sequence[Row], base: Sequence[Row] = ()) -> list[str]:
    """Change of Recall@50 and @200, bold beyond twice its noise, and the split: test if all have one.

    Args:
        runs: of the variant.
        full: of the method itself, whose seeds tell the noise.
        base: what the variant is compared with, seed by seed; empty: `full`.
    """
    same = {row["seed"]: row for row in base or full}
    pairs = [(row, same[row["seed"]]) for row in runs if row["seed"] in same]
    split = "test" if all(row.get("test") for row in (*runs, *full)) else "validation"
    if not pairs:
        return [*["no seed in common" for _ in METRICS], split]
    cells = []
    for metric in METRICS:
        change = float(np.mean([row[split][metric] - other[split][metric] for row, other in pairs]))
        seeds = np.array([row[split][metric] for row in full], np.float64)
        if len(seeds) < 2:
            cells.append(f"{change:+.4f} (one seed)")
            continue
        noise = seeds.std(ddof=1) * np.sqrt(2 / len(pairs))
        text = f"{change:+.4f} ± {noise:.4f}"
        cells.append(f"**{text}**" if abs(change) > 2 * noise else text)
    return [*cells, split]


def recall_without(results: Results, variant: str, dataset: str) -> str | None:
    """Change of Recall@50 of `esans` by a variant on a data set; None where either was not run."""
    runs = results.phase("ablation", method="esans", dataset=dataset, variant=variant)
    full = results.phase("seed", method="esans", dataset=dataset, variant="")
    return change_of(runs, full)[0] if runs and full else None


def controls_table(results: Results) -> list[str]:
    """Groups without meaning in place of the semantic ones, beside in-batch alone and ours; nothing where none was run."""
    table = [row for dataset in DATASETS for row in _controls_of(results, dataset)]
    if not table:
        return []
    return [
        "## Controls: groups without meaning, and methods alone",
        "",
        "The same batch and the temperature that was tuned for `in_batch`, not tuned again: as many encodings an example as the semantic",
        "groups take (15), as many terms in the denominator (48), and as many uniform negatives as a batch has, shared. Below them the",
        "winners of methods that validation put beside in-batch negatives, as their authors have them: alone. Same seeds.",
        "",
        *markdown(["groups", "data set", "seeds", "Recall@50", "Recall@200", "R@50 against in_batch"], table),
        "",
    ]


def _controls_of(results: Results, dataset: str) -> list[list[str]]:
    rows = sorted(results.phase("controls", dataset=dataset), key=lambda row: (row["method"] != "in_batch", row["method"], row["variant"]))
    seeds = {row["seed"] for row in rows}
    named: dict[str, list[Row]] = defaultdict(list)
    for method in _BESIDE_CONTROLS:
        named[f"`{method}`"] = [row for row in results.phase("seed", method=method, dataset=dataset, variant="") if row["seed"] in seeds]
    for row in rows:
        named[row["variant"] if row["method"] == "in_batch" else f"`{row['method']}`, {row['variant']}"].append(row)
    base = {row["seed"]: row["test"][METRICS[0]] for row in named["`in_batch`"]}
    table = []
    for name, runs in named.items():
        if not runs:
            continue
        cells = [f"{np.mean([row['test'][metric] for row in runs]):.4f}" for metric in METRICS]
        changes = [row["test"][METRICS[0]] / base[row["seed"]] - 1 for row in runs if row["seed"] in base]
        against = "–" if name == "`in_batch`" or not changes else f"{100 * np.mean(changes):+.1f} %"
        table.append([name, dataset, str(len(runs)), *cells, against])
    return table


def _expected_variants() -> list[tuple[str, str]]:
    """Variants that the experiment means to run, so that one that is missing shows as such."""
    from benchmarks.methods.studies import ABLATIONS, CLUSTERS

    return [("esans", name) for name in (*ABLATIONS, *(f"clusters: {kind}" for kind in CLUSTERS))]


def cost_table(results: Results) -> list[str]:
    """Item encodings and seconds per step, relative to uniform on the same data set."""
    table = []
    for method in results.methods:
        if method in REFERENCES:
            continue
        rows = results.phase("seed", method=method, variant="")
        cells = [f"{_mean(rows, 'encodings_per_example'):.0f}", _relative(results, method), _seconds(rows)] if rows else [NOT_RUN, "", ""]
        table.append([f"`{method}`", *cells])
    return [
        "## Cost",
        "",
        "Encodings are item vectors per example beyond the positive, as tuned (an in-batch negative costs none). Seconds per step are",
        "processor seconds of one thread, measured in turns with steps of `uniform` at its defaults, as a ratio to those, averaged over",
        "data sets.",
        "",
        *markdown(["method", "encodings per example", "seconds per step, uniform = 1", "seconds of training, median"], table),
        "",
    ]


def relative_cost(results: Results, method: str) -> float:
    """Seconds of a step as a ratio to those of `uniform`, averaged over data sets; NaN where none was measured."""
    ratios = []
    for dataset in DATASETS:
        paired = results.phase("cost", method=method, dataset=dataset)
        if paired and paired[0].get("uniform_seconds_per_step") is not None:
            # Both were measured in turns, so that other work on the machine slowed them alike.
            own, base = (_mean(paired, name) for name in ("seconds_per_step", "uniform_seconds_per_step"))
        else:
            own, base = (
                _mean(results.phase("seed", method=name, dataset=dataset, variant=""), "seconds_per_step") for name in (method, "uniform")
            )
        if np.isfinite(own) and base > 0:
            ratios.append(own / base)
    return float(np.mean(ratios)) if ratios else float("nan")


def _relative(results: Results, method: str) -> str:
    ratio = relative_cost(results, method)
    return f"{ratio:.2f}" if np.isfinite(ratio) else NOT_RUN


def _seconds(rows: Sequence[Row]) -> str:
    # The median: other work stalled single runs for minutes.
    known = [float(row["train_seconds"]) for row in rows if row.get("train_seconds") is not None]
    seconds = float(np.median(known)) if known else float("nan")
    return f"{seconds:.0f}" if np.isfinite(seconds) else NOT_RUN


def _mean(rows: Sequence[Row], name: str) -> float:
    known = [float(row[name]) for row in rows if row.get(name) is not None]
    return float(np.mean(known)) if known else float("nan")


def longer_table(results: Results) -> list[str]:
    """Recall with several times the epochs beside the same seed under the protocol, each against uniform's; nothing where none was run."""
    table = []
    for dataset in DATASETS:
        pairs = results.longer(dataset)
        short, long = ({name: pair[place] for name, pair in pairs.items()} for place in (0, 1))
        for method in pairs:
            both = ((short[method], short), (long[method], long))
            cells = [f"{row['test'][METRICS[0]]:.4f}{_to_uniform(row, base)}" for row, base in both]
            best = [f"{row['best_epoch'] + 1} of {row['epochs']}" for row, _ in both]
            table.append([f"`{method}`", dataset, cells[0], best[0], cells[1], best[1]])
    if not table:
        return []
    head = ["method", "data set", "Recall@50, protocol", "best epoch", "Recall@50, longer", "best epoch"]
    study = PROTOCOL["longer"]
    return [
        f"The winners with {study['times']} times the epochs, stopped after {study['patience']} without a better validation recall; one",
        "seed, on the test split, beside the same seed under the protocol. Brackets: against `uniform` with the same budget.",
        "",
        *markdown(head, table),
        "",
    ]


def _to_uniform(row: Row, others: Mapping[str, Row]) -> str:
    base = others.get("uniform")
    if base is None or row["method"] == "uniform":
        return ""
    return f" ({100 * (row['test'][METRICS[0]] / base['test'][METRICS[0]] - 1):+.1f} %)"
