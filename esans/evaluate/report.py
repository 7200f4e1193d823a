"""The comparison of methods: a table for the terminal, and one self-contained HTML page."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from esans.bundle import Bundle
from esans.evaluate.results import HEADLINE, Comparison, MethodResult, Row
from esans.progress import console
from esans.uri import write_text

if TYPE_CHECKING:
    from rich.table import Table

# Columns of a terminal from which every metric gets its standard error.
_WIDE = 125

__all__ = ["Comparison", "MethodResult", "print_table", "terminal_table", "write_report"]


def terminal_table(comparison: Comparison, *, errors: bool = True, title: str = "Test split, whole catalogue ranked") -> Table:
    """The methods as a rich table: metrics, examples/s and training seconds.

    With `errors` every metric has its standard error and the table is about 125 columns wide; without, it fits into 80 and
    the standard error of Recall@50 alone is shown.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    rows, metric_of_error = comparison.rows, comparison.headline_metric
    table = Table(title=title, title_justify="left", caption=_knn_note(rows), caption_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.padding = (0, 1, 0, 1) if errors else (0, 0, 0, 0)
    table.add_column("method", no_wrap=errors, overflow="fold")
    for metric, shown in HEADLINE.items():
        table.add_column(shown, justify="right", no_wrap=True)
        if not errors and metric == metric_of_error:
            table.add_column("±", justify="right", no_wrap=True)
    for shown in ("ex./s", "seconds"):
        table.add_column(shown if not errors or shown == "seconds" else "examples/s", justify="right", no_wrap=True)
    best = _best(rows)
    for row in rows:
        cells = []
        for metric in HEADLINE:
            value, _, error = _value(row, metric).partition(" ±")
            text = f"{value} ±{error}" if errors and error else value
            cells.append(f"[bold]{text}[/bold]" if row.name == best.get(metric) else text)
            if not errors and metric == metric_of_error:
                cells.append(error.lstrip("0"))
        table.add_row(row.name, *cells, _number(row.examples_per_second), _number(row.seconds), style="dim" if row.is_reference else "")
    return table


def print_table(results: Sequence[MethodResult], references: Bundle | None) -> None:
    """Print the methods, references first, to the project's console."""
    console.print(terminal_table(Comparison.read(results, references), errors=console.width >= _WIDE))


def write_report(
    path: str,
    results: Sequence[MethodResult],
    references: Bundle | None,
    cluster: Bundle | None = None,
    *,
    title: str = "Comparison of methods",
    notes: Sequence[str] = (),
) -> str:
    """Write the HTML report to a path or URI and return it. The page needs nothing from outside itself.

    Args:
        path: where to write; any fsspec URI.
        results: the trained methods, in order.
        references: the references bundle, or None.
        cluster: the cluster bundle, for the sizes of its clusters, or None.
        title: heading of the page.
        notes: plain sentences under the table.
    """
    from esans.evaluate.pictures import pictures

    comparison = Comparison.read(results, references, cluster)
    figures = "".join(f"<figure><figcaption>{_safe(name)}</figcaption>{svg}</figure>" for name, svg in pictures(comparison).items())
    page = _PAGE.format(
        title=_safe(title),
        style=_STYLE,
        about=_about(comparison),
        table=_html_table(comparison.rows, HEADLINE, speed=True),
        beyond=_html_table(comparison.rows, comparison.beyond) if comparison.beyond else "",
        notes="".join(f"<p>{_safe(note)}</p>" for note in [*filter(None, [_knn_note(comparison.rows)]), *notes]),
        figures=figures,
        footer=_footer(comparison),
    )
    write_text(path, page)
    return path


def _knn_note(rows: Sequence[Row]) -> str:
    return next((f"item-kNN, tuned on validation: {row.note}" for row in rows if row.note), "")


def _best(rows: Sequence[Row]) -> dict[str, str]:
    result = {}
    for metric in HEADLINE:
        scored = [row for row in rows if metric in row.values]
        if scored:
            result[metric] = max(scored, key=lambda row: row.values[metric]).name
    return result


def _value(row: Row, metric: str) -> str:
    if metric not in row.values:
        return "-"
    error = row.errors.get(metric, math.nan)
    return f"{row.values[metric]:.4f}" + ("" if math.isnan(error) else f" ±{error:.4f}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _about(comparison: Comparison) -> str:
    prepare = _prepare(comparison)
    if prepare is None:
        return ""
    facts, users = prepare.facts, max([row.users for row in comparison.rows], default=0)
    sentence = (
        f"{facts['num_items']:,} items, {facts['num_users']:,} users, {facts['num_train']:,} train positives; {users:,} users tested."
    )
    split = facts.get("split", {})
    rule = split.get("rule", "") if isinstance(split, dict) else ""
    return f"<p>{_safe(sentence)}</p>" + (f"<p><strong>Split.</strong> {_safe(rule)}</p>" if rule else "")


def _prepare(comparison: Comparison) -> Bundle | None:
    bundles = [result.evaluate_bundle for result in comparison.results]
    if comparison.references is not None:
        bundles.append(comparison.references)
    for bundle in bundles:
        uri = bundle.manifest["inputs"].get("prepare")
        if uri:
            return Bundle.find(uri)
    return None


def _html_table(rows: Sequence[Row], metrics: Mapping[str, str], *, speed: bool = False) -> str:
    best = _best(rows) if metrics is HEADLINE else {}
    shown = [*metrics.values(), *(("examples/s", "seconds") if speed else ())]
    heads = "".join(f"<th>{_safe(name)}</th>" for name in ("method", *shown))
    body = ""
    for row in rows:
        cells = ""
        for metric in metrics:
            value, _, error = _value(row, metric).partition(" ")
            mark = ' class="best"' if row.name == best.get(metric) else ""
            cells += f"<td{mark}>{value}<small> {error}</small>{_interval(row, metric)}</td>"
        if speed:
            cells += f"<td>{_number(row.examples_per_second)}</td><td>{_number(row.seconds)}</td>"
        kind = ' class="reference"' if row.is_reference else ""
        body += f"<tr{kind}><th>{_safe(row.name)}</th>{cells}</tr>"
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def _interval(row: Row, metric: str) -> str:
    if metric not in row.intervals:
        return ""
    low, high = row.intervals[metric]
    return f"<br><small>{low:.4f} to {high:.4f}</small>"


def _footer(comparison: Comparison) -> str:
    named: list[tuple[str, Bundle]] = []
    for result in comparison.results:
        named.append((f"{result.name}: evaluate", result.evaluate_bundle))
        if result.train_bundle is not None:
            named.append((f"{result.name}: train", result.train_bundle))
    for name, bundle in (("references", comparison.references), ("cluster", comparison.cluster), ("prepare", _prepare(comparison))):
        if bundle is not None:
            named.append((name, bundle))
    entries = ""
    for name, bundle in named:
        manifest = bundle.manifest
        shown = f"{name} · {manifest['fingerprint']} · {manifest['created']} · {manifest['seconds']:.0f} s"
        details = json.dumps({"bundle": bundle.uri, "config": manifest["config"]}, indent=1, default=str)
        entries += f"<details><summary>{_safe(shown)}</summary><pre>{_safe(details)}</pre></details>"
    return entries


def _safe(text: str) -> str:
    return html.escape(str(text))


_STYLE = """
:root { color-scheme: light dark; --ink: #1c1f24; --dim: #667; --page: #fbfbfa; --card: #fff; --line: #dfe1e5; --best: #e8f1fb; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e6ea; --dim: #98a0ad; --page: #14161a; --card: #1c1f25; --line: #323741; --best: #20324a; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 2.2rem 1.4rem; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .6rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .7rem; }
p { max-width: 80ch; margin: .4rem 0; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; background: var(--card); border: 1px solid var(--line); margin: 1rem 0; }
th, td { padding: .45rem .8rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap;
  font-variant-numeric: tabular-nums; }
th:first-child { text-align: left; } thead th { font-weight: 600; color: var(--dim); } tbody th { font-weight: 600; }
tbody th, tbody td { vertical-align: top; }
tr.reference th, tr.reference td { color: var(--dim); } td.best { background: var(--best); color: var(--ink); font-weight: 600; }
small { color: var(--dim); font-weight: 400; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 1rem; }
figure { margin: 0; padding: .8rem 1rem; background: var(--card); border: 1px solid var(--line); }
figcaption { font-weight: 600; margin-bottom: .4rem; } svg { width: 100%; height: auto; display: block; }
details { border-bottom: 1px solid var(--line); padding: .3rem 0; } summary { cursor: pointer; color: var(--dim); }
pre { overflow-x: auto; font-size: 12.5px; }
"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head><body>
<h1>{title}</h1>{about}
<h2>Methods</h2>{table}{notes}
<h2>What the lists hold</h2>{beyond}
<p>Every user's list ranks the whole catalogue without the items seen before. Recall is the share of a user's targets within the
first k; NDCG counts a target at rank r as 1/log2(1+r) against the best possible order; MRR is one over the rank of the first target.
All are means over users; ± is one standard error over users, and the small range beneath is the bootstrap interval over users
(95 % unless evaluate.metrics.confidence says otherwise). Intervals of two methods that overlap say little: the methods rank the same
users, and a paired test sees more. Grey rows were not trained. Ranks are exact, and equal scores are ordered by a fixed shuffle.</p>
<p>Hit rate is the share of users with a target within the first k. Coverage is the share of the catalogue that stands in anybody's first
k; novelty the mean of -log2 of an item's share of train positives, in bits; popularity lift the mean train positives of what is
recommended over those of what users chose.</p>
<h2>Pictures</h2><div class="figures">{figures}</div>
<h2>Made from</h2>{footer}
</body></html>
"""
