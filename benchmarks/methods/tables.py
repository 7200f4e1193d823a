"""Tables of the studies beside the comparison: what each part of the method is worth, and what each method costs."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.growth_report import SUMMARY, growth_table, growth_words, most_run
from benchmarks.methods.collect import DATASETS, METRICS, REFERENCES, Results
from benchmarks.methods.store import Row
from benchmarks.methods.verdict import NOT_RUN, markdown


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
                table.append([f"`{method}`: {variant}", dataset, str(len(runs)), *change_of(runs, full)])
        lacking = [dataset for dataset in datasets if (method, variant, dataset) not in found]
        if lacking:
            absent.append(f"- `{method}`: {variant}{'' if lacking == datasets else ' on ' + ', '.join(lacking)}")
    if not table:
        return [*lines, f"{NOT_RUN.capitalize()}: {len(order)} variants.", ""]
    head = ["variant", "data set", "seeds", "Recall@50, change", "Recall@200, change", "split"]
    return [
        *lines,
        "Change of the mean recall against the full method of the same data set, in points of recall (0.01 = one user in a hundred); ±",
        "is the standard error that the full method's seed noise gives such a difference; bold where the change is more than twice it.",
        "",
        *markdown(head, table),
        "",
        *([f"{NOT_RUN.capitalize()}, or not to be run for lack of the modality or of categories:", "", *absent, ""] if absent else []),
    ]


def change_of(runs: Sequence[Row], full: Sequence[Row]) -> list[str]:
    """Change of mean Recall@50 and @200 against the full method, bold beyond twice its standard error; the split: test if both have one."""
    split = "test" if all(row.get("test") for row in (*runs, *full)) else "validation"
    cells = []
    for metric in METRICS:
        ours, base = (np.array([row[split][metric] for row in rows], np.float64) for rows in (runs, full))
        change = ours.mean() - base.mean()
        if len(base) < 2:
            cells.append(f"{change:+.4f} (one seed)")
            continue
        noise = base.std(ddof=1) * np.sqrt(1 / len(ours) + 1 / len(base))
        text = f"{change:+.4f} ± {noise:.4f}"
        cells.append(f"**{text}**" if abs(change) > 2 * noise else text)
    return [*cells, split]


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
        *markdown(["method", "encodings per example", "seconds per step, uniform = 1", "seconds of training, mean"], table),
        "",
    ]


def _relative(results: Results, method: str) -> str:
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
    return f"{np.mean(ratios):.2f}" if ratios else NOT_RUN


def _seconds(rows: Sequence[Row]) -> str:
    seconds = _mean(rows, "train_seconds")
    return f"{seconds:.0f}" if np.isfinite(seconds) else NOT_RUN


def _mean(rows: Sequence[Row], name: str) -> float:
    known = [float(row[name]) for row in rows if row.get(name) is not None]
    return float(np.mean(known)) if known else float("nan")


def _longer_table(results: Results) -> list[str]:
    """Recall with several times the epochs beside the same seed under the protocol, each against uniform's; nothing where none was run."""
    table = []
    for dataset in DATASETS:
        runs = {row["method"]: row for row in results.phase("steps", dataset=dataset)}
        short = {
            name: row for name in runs for row in results.phase("seed", method=name, dataset=dataset, seed=runs[name]["seed"], variant="")
        }
        for method, row in runs.items():
            if method not in short:
                continue
            cells = [f"{one['test'][METRICS[0]]:.4f}{_to_uniform(one, base)}" for one, base in ((short[method], short), (row, runs))]
            best = [f"{one['best_epoch'] + 1} of {one['epochs']}" for one in (short[method], row)]
            table.append([f"`{method}`", dataset, cells[0], best[0], cells[1], best[1]])
    if not table:
        return []
    head = ["method", "data set", "Recall@50, protocol", "best epoch", "Recall@50, longer", "best epoch"]
    return [
        "The winners with four times the epochs, stopped after six without a better validation recall; one seed, on the test split, beside",
        "the same seed under the protocol. Brackets: against `uniform` with the same budget.",
        "",
        *markdown(head, table),
        "",
    ]


def _to_uniform(row: Row, others: Mapping[str, Row]) -> str:
    base = others.get("uniform")
    if base is None or row["method"] == "uniform":
        return ""
    return f" ({100 * (row['test'][METRICS[0]] / base['test'][METRICS[0]] - 1):+.1f} %)"


def studies(results: Results, pictures: dict[str, str], growth: Sequence[Row]) -> list[str]:
    """Recall against the number of negatives, steps and catalogue size."""
    titles = {
        "negatives": "Recall against encoded negatives per example",
        "steps": "Recall against steps trained",
        "growth": "Does the gain grow with the catalogue?",
    }
    lines = []
    for name, title in titles.items():
        lines += [f"## {title}", "", f"![{title}]({pictures[name]})" if name in pictures else f"{NOT_RUN.capitalize()}.", ""]
        if name == "steps":
            lines += [*_bands(results, pictures), *_longer_table(results)]
    if growth:
        lines += [
            "`python -m benchmarks.catalogue_growth`, with `--steps` as the first column has it; its docstring says how the catalogues are",
            "made. Words and picture are of the number of steps that most cells have. One seed; ± is the standard error over users,",
            "for ratios that of the paired difference. Other work ran beside some rows: compare ms a step within a block.",
            "",
            *growth_words(most_run(growth)),
            "",
            *growth_table(growth),
            "",
        ]
    return lines


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
