"""What the numbers say, in words: targets, wins, losses and their reasons. Every sentence is made from the runs."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.methods.collect import BOUND, ENCODINGS, HEADLINE, METRICS, OURS, REFERENCES, Results
from benchmarks.methods.statistics import Estimate, holm

UNIFORM_TARGETS = {"recall@50": 1.15, "recall@200": 1.10}
BEST_OTHER_TARGETS = {"recall@50": 1.05, "recall@200": 1.026}
SIGNIFICANT = 0.01
NOT_RUN = "not run"


def percent(estimate: Estimate | None, interval: bool = True) -> str:
    """A ratio as a change, with its interval: `+4.2 % [+1.0, +7.5]`."""
    if estimate is None:
        return NOT_RUN
    value, low, high = (100 * (number - 1) for number in (estimate.value, estimate.low, estimate.high))
    return f"{value:+.1f} % [{low:+.1f}, {high:+.1f}]" if interval else f"{value:+.1f} %"


def p_words(p: float) -> str:
    """A p-value; no smaller than the resamples can tell."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def markdown(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    """A table, the first column to the left."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] + ["--:"] * (len(head) - 1), *rows)]


def verdict(results: Results) -> list[str]:
    """The section that answers the question, before any table."""
    if not results.pooled or results.better_of_ours is None:
        why = "`uniform` was tested on none of the headline data sets" if not results.pooled else "neither of our methods is complete"
        return ["## Verdict", "", f"None yet: {why} ({', '.join(HEADLINE)}).", ""]
    lines = ["## Verdict", ""]
    absent = [dataset for dataset in HEADLINE if dataset not in results.pooled]
    if absent:
        lines += [f"**Incomplete**: averages are over {', '.join(results.pooled)} only; {', '.join(absent)}: {NOT_RUN}.", ""]
    lines += [*_targets(results), "", *_standing(results), ""]
    return [*lines, *_by_dataset(results), ""]


def _targets(results: Results) -> list[str]:
    rows = []
    for method in OURS:
        for metric, target in UNIFORM_TARGETS.items():
            found = results.compare(method, "uniform", metric, ENCODINGS, results.pooled)
            rows.append([f"`{method}`", metric, "`uniform`", f"{100 * (target - 1):+.0f} %", *_reached(found, target, None)])
        for metric, target in BEST_OTHER_TARGETS.items():
            best = results.best_other(metric, ENCODINGS)
            found = results.compare(method, best, metric, ENCODINGS, results.pooled) if best else None
            known = results.seeds_suffice(method, ENCODINGS, results.pooled)
            cells = _reached(found, target, SIGNIFICANT, known)
            rows.append([f"`{method}`", metric, f"best other, `{best}`", f"{100 * (target - 1):+.1f} %, p < {SIGNIFICANT}", *cells])
    better = results.better_of_ours
    reached = sum(row[0] == f"`{better}`" and row[-1] == "**reached**" for row in rows)
    words = (
        f"The better of ours is `{better}`: it reaches {reached} of the 4 targets. Averages are over {len(results.pooled)} data sets at"
        " equal item encodings; brackets are 95 % intervals over users and seeds."
    )
    return [words, "", *markdown(["method", "metric", "against", "target", "measured", "p", "target is"], rows)]


def _reached(found: Estimate | None, target: float, level: float | None, known: bool = True) -> list[str]:
    if found is None:
        return [NOT_RUN, "", NOT_RUN]
    p = p_words(found.p) if known else "one seed"
    enough = found.value >= target and (level is None or (known and found.p < level))
    return [percent(found), p, "**reached**" if enough else "not reached"]


def _standing(results: Results) -> list[str]:
    """Who is distinguishable from the better of ours, after Holm's correction over the methods."""
    ours = results.better_of_ours
    assert ours is not None
    found = {
        other: estimate
        for other in results.methods
        if other != ours and (estimate := results.compare(ours, other, METRICS[0], ENCODINGS, results.pooled)) is not None
    }
    adjusted = holm({name: estimate.p for name, estimate in found.items() if results.seeds_suffice(name, ENCODINGS, results.pooled)})
    groups: dict[str, list[str]] = {"loses to": [], "wins over": [], "cannot be told from": [], "has one seed only to compare with": []}
    for name, estimate in sorted(found.items(), key=lambda item: item[1].value):
        if name not in adjusted:
            group = "has one seed only to compare with"
        elif adjusted[name] < 0.05:
            group = "wins over" if estimate.value > 1 else "loses to"
        else:
            group = "cannot be told from"
        groups[group].append(f"`{name}` ({percent(estimate, interval=False)})")
    words = [f"- it {group}: {', '.join(names)}" for group, names in groups.items() if names]
    tail = f"`{BOUND}` takes every item as a negative: the loss that the others estimate, without sampling." if BOUND in found else ""
    return [
        f"In Recall@50 `{ours}`, at a level of 0.05 after Holm's correction over all methods:",
        "",
        *words,
        *(["", tail] if tail else []),
    ]


def _by_dataset(results: Results) -> list[str]:
    """The place of each of ours among the methods tested on a data set."""
    lines = []
    for dataset in dict.fromkeys(where for _, where in results.cells[ENCODINGS]):
        means = {
            method: float(cell.means[METRICS[0]].mean()) for (method, where), cell in results.cells[ENCODINGS].items() if where == dataset
        }
        order = sorted(means, key=means.__getitem__, reverse=True)
        places = [f"`{name}` is {order.index(name) + 1} of {len(order)} ({means[name]:.4f})" for name in OURS if name in means]
        if places:
            lines.append(f"- {dataset}: {', '.join(places)}; the first is `{order[0]}` ({means[order[0]]:.4f})")
    return ["Places in Recall@50 by data set:", "", *lines] if lines else []


def reasons(results: Results) -> list[str]:
    """A line a method: how it did against uniform, and what its draws looked like beside uniform's."""
    lines = []
    for method in results.methods:
        found = results.compare(method, "uniform", METRICS[0], ENCODINGS, results.pooled) if results.pooled else None
        if found is None or method == "uniform":
            continue
        outcome = "no difference beyond noise" if found.low <= 1 <= found.high else "a win" if found.value > 1 else "a loss"
        lines.append(f"- `{method}`: {percent(found)} in Recall@50, {outcome}. {_reason(results, method, found)}")
    return lines


def _reason(results: Results, method: str, found: Estimate) -> str:
    """Numbers of the draws against those of uniform, and the reading that they allow; no reading where they allow none."""
    own = {name: results.diagnosis(method, name) for name in ("hardness", "false_negative_rate", "effective_negatives", "uniformity_items")}
    base = {name: results.diagnosis("uniform", name) for name in own}
    parts = []
    harder = None
    if own["hardness"] is not None and base["hardness"] is not None:
        harder = own["hardness"] - base["hardness"]
        parts.append(f"mean s_n - s+ {own['hardness']:+.3f} (uniform {base['hardness']:+.3f})")
    false = None
    if own["false_negative_rate"] is not None and base["false_negative_rate"]:
        false = own["false_negative_rate"] / base["false_negative_rate"]
        parts.append(f"false negatives {100 * own['false_negative_rate']:.2f} % of draws, {false:.1f} times uniform's")
    effective = None
    if own["effective_negatives"] is not None and base["effective_negatives"]:
        effective = own["effective_negatives"] / base["effective_negatives"]
        parts.append(f"{own['effective_negatives']:.0f} effective negatives ({effective:.1f} times uniform's)")
    crowded = None
    if own["uniformity_items"] is not None and base["uniformity_items"]:
        crowded = own["uniformity_items"] / base["uniformity_items"]
        parts.append(f"uniformity of item vectors {own['uniformity_items']:.1f} (uniform {base['uniformity_items']:.1f})")
    if not parts:
        return "It draws no negatives." if method in REFERENCES else "No diagnosis was measured."
    reading = _reading(found, harder, false, effective, crowded, method == "esans_only")
    late = _late(results, method)
    return "; ".join(parts) + "." + (f" {reading}" if reading else "") + (f" {late}" if late else "")


def _late(results: Results, method: str) -> str:
    """Says so where the tested weights are of epochs before a group has entered, in most runs."""
    rows = [row for dataset in results.pooled for row in results.phase("seed", method=method, dataset=dataset, variant="")]
    before = 0
    for row in rows:
        enters = max((group.get("enters_at_epoch", 0) for group in row["params"].get("negatives", ())), default=0)
        before += 0 < row.get("best_epoch", enters) + 1 <= enters
    if 2 * before <= len(rows):
        return ""
    return (
        f"In {before} of {len(rows)} runs the tested weights are of epochs before its last group entered: with it validation recall fell."
    )


def _reading(
    found: Estimate, harder: float | None, false: float | None, effective: float | None, crowded: float | None, no_global: bool
) -> str:
    """What goes with a loss or a win. It is a reading of averages, not a proof of a cause."""
    if found.low <= 1 <= found.high:
        return ""
    if found.value < 1:
        causes = []
        if no_global:
            causes.append("no group of it draws from the whole catalogue, so nothing keeps unrelated items down")
        elif crowded is not None and crowded < 0.5:
            causes.append("its item vectors crowd together")
        elif false is not None and false > 1.5:
            causes.append("its hardness is bought with false negatives")
        if effective is not None and effective < 0.5:
            causes.append("few negatives carry the gradient")
        if harder is not None and harder < 0 and not causes:
            causes.append("its negatives are easier than uniform's and teach less")
        return f"Goes with the loss: {' and '.join(causes)}." if causes else "None of these numbers explains the loss."
    gains = []
    if harder is not None and harder > 0:
        price = "at little price in false negatives" if false is not None and false <= 1.5 else "though more of them are false"
        gains.append(f"its negatives are harder, {price}" if false is not None else "its negatives are harder")
    if effective is not None and effective > 1.5:
        gains.append("more negatives carry the gradient")
    return f"Goes with the win: {' and '.join(gains)}." if gains else "None of these numbers explains the win."
