"""The comparison as one HTML page that names nothing outside itself."""

from __future__ import annotations

import html
import json
import math
from pathlib import Path

from esans.compare.pictures import pictures
from esans.compare.results import Cell, Comparison
from esans.compare.terminal import p_text

_SIGNIFICANT = 0.05


def page(comparison: Comparison) -> str:
    """The whole page."""
    title = f"{', '.join(comparison.names[1:])} against {comparison.names[0]}"
    figures = "".join(f"<figure><figcaption>{_safe(name)}</figcaption>{svg}</figure>" for name, svg in pictures(comparison).items())
    return _PAGE.format(
        title=_safe(title),
        style=Path(__file__).with_name("page.css").read_text(encoding="utf-8"),
        about=_about(comparison),
        metrics=_metrics(comparison),
        slices=_slices(comparison),
        keys=_keys(comparison),
        figures=figures,
        bundles=_bundles(comparison),
    )


def _about(comparison: Comparison) -> str:
    sentences = [
        f"{comparison.split.capitalize()} split, {comparison.users:,} users that every run ranked the whole catalogue for.",
        *comparison.notes,
    ]
    return "".join(f"<p>{_safe(sentence)}</p>" for sentence in sentences)


def _metrics(comparison: Comparison) -> str:
    heads = ("run", "value", "95 % interval", "difference", "95 % interval", "ratio", "p", "p, Holm")
    body = ""
    for metric, cells in comparison.cells.items():
        body += f'<tr class="group"><th colspan="{len(heads)}">{_safe(metric)}</th></tr>'
        for name, cell in zip(comparison.names, cells, strict=True):
            body += f"<tr{'' if cell.paired else ' class=baseline'}><th>{_safe(name)}</th>{_cells(cell)}</tr>"
    return _table(heads, body)


def _cells(cell: Cell) -> str:
    own = f"<td>{cell.value.value:.4f}</td><td>{_ends(cell.value.low, cell.value.high)}</td>"
    paired = cell.paired
    if paired is None:
        return own + '<td colspan="5">baseline</td>'
    return (
        f"{own}<td{_mark(cell)}>{paired.difference:+.4f}</td><td>{_ends(paired.low, paired.high, '+')}</td>"
        f"<td>{_number(paired.ratio)}</td><td>{_safe(p_text(paired.p))}</td><td>{_safe(p_text(cell.holm))}</td>"
    )


def _slices(comparison: Comparison) -> str:
    if not comparison.slices:
        return ""
    heads = ("slice", "users", *comparison.names)
    body, before = "", ""
    for row in comparison.slices:
        if row.slice != before:
            body += f'<tr class="group"><th colspan="{len(heads)}">{_safe(row.slice)}</th></tr>'
            before = row.slice
        cells = "".join(_slice_cell(cell) for cell in row.cells)
        body += f"<tr><th>{_safe(row.label)}</th><td>{row.users:,}</td>{cells}</tr>"
    return (
        f"<h2>{_safe(comparison.headline)} by slice</h2>{_table(heads, body)}"
        "<p>By popularity and by columns of the items a user counts with the targets of that slice alone, as the runs' own tables have "
        "it: those slices are not tested. By history length the same users are cut, so they are: the difference, and its p after Holm's "
        "correction over the runs, stand below the value.</p>"
    )


def _slice_cell(cell: Cell | None) -> str:
    if cell is None:
        return "<td>-</td>"
    value = f"{cell.value.value:.4f} <small>{_ends(cell.value.low, cell.value.high)}</small>"
    if cell.paired is None:
        return f"<td>{value}</td>"
    return f"<td{_mark(cell)}>{value}<br><small>{cell.paired.difference:+.4f}, p {_safe(p_text(cell.holm))}</small></td>"


def _mark(cell: Cell) -> str:
    if cell.paired is None or math.isnan(cell.holm) or cell.holm >= _SIGNIFICANT:
        return ""
    return ' class="better"' if cell.paired.difference > 0 else ' class="worse"'


def _keys(comparison: Comparison) -> str:
    if not comparison.keys:
        return "<p>None: the runs have one configuration.</p>"
    body = ""
    for key, values in comparison.keys:
        cells = "".join(f"<td class=text>{_safe(value or '')}</td>" for value in values)
        body += f"<tr><th>{_safe(key)}</th>{cells}</tr>"
    return _table(("key", *comparison.names), body, "keys")


def _bundles(comparison: Comparison) -> str:
    entries = ""
    for entry in comparison.entries:
        manifest = entry.bundle.manifest
        shown = f"{entry.name} · {manifest['stage']} {manifest['fingerprint']} · {manifest['created']}"
        facts = {"bundle": entry.bundle.uri, "mlflow_run_id": entry.bundle.facts.get("mlflow_run_id"), "inputs": manifest["inputs"]}
        entries += f"<details><summary>{_safe(shown)}</summary><pre>{_safe(json.dumps(facts, indent=1))}</pre></details>"
    return entries


def _table(heads: tuple[str, ...], body: str, kind: str = "numbers") -> str:
    head = "".join(f"<th>{_safe(name)}</th>" for name in heads)
    return f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _ends(low: float, high: float, sign: str = "") -> str:
    return "-" if math.isnan(low) or math.isnan(high) else f"{low:{sign}.4f} to {high:{sign}.4f}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _safe(text: str) -> str:
    return html.escape(str(text))


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head><body>
<h1>{title}</h1>{about}
<h2>Metrics</h2>{metrics}
<p>Intervals are bootstrapped over users. The p-value is that of a bootstrap which draws users with both their values, for "no
difference"; Holm's correction is over the runs that are compared with the baseline, within one metric. A coloured difference has a
corrected p below .05.</p>
<h2>Side by side</h2><div class="figures">{figures}</div>
{slices}
<h2>Configuration: keys that differ</h2>{keys}
<h2>Made from</h2>{bundles}
</body></html>
"""
