"""The comparison in a terminal of 80 columns."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from esans.compare.results import Cell, Comparison
from esans.retrieval.bootstrap import Interval

# Runs whose values of a slice stand side by side in 80 columns.
_RUNS_SIDE_BY_SIDE = 4
_NAME = 22
_SIGNIFICANT = 0.05


def tables(comparison: Comparison) -> Iterator[Table | Text]:
    """The metrics, the slices of the headline metric, and the keys that differ, with a line of explanation below a table."""
    several = len(comparison.entries) > 2
    yield _metrics(comparison)
    yield _note("Intervals: 95 %, over users. p: paired over users." + (" Holm: p corrected for the runs compared." if several else ""))
    for start in range(1, len(comparison.entries), _RUNS_SIDE_BY_SIDE - 1):
        if comparison.slices:
            yield _slices(comparison, [0, *range(start, min(start + _RUNS_SIDE_BY_SIDE - 1, len(comparison.entries)))])
            yield _note(f"* differs from {comparison.names[0]}: p < .05 after Holm's correction. Only slices by history are tested.")
    if comparison.keys:
        yield _keys(comparison)


def _note(text: str) -> Text:
    return Text(f"{text}\n", style="dim")


def p_text(p: float) -> str:
    """.012, <.001, or - where nothing was tested."""
    return "-" if math.isnan(p) else "<.001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def interval_text(interval: Interval, sign: str = "") -> str:
    """.1712 to .1934."""
    return "-" if math.isnan(interval.low) else f"{_short(interval.low, sign)} to {_short(interval.high, sign)}"


def _short(value: float, sign: str = "") -> str:
    return format(value, f"{sign}.4f").replace("0.", ".", 1) if abs(value) < 1 else format(value, f"{sign}.3f")


def _plain_table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def _metrics(comparison: Comparison) -> Table:
    title = f"{comparison.split} split, {comparison.users:,} users, against {comparison.names[0]}"
    several = len(comparison.entries) > 2
    table = _plain_table(title)
    table.add_column("", max_width=_NAME, overflow="fold")
    for shown in ("value", "interval", "differs by", "interval", "p", *(["Holm"] if several else [])):
        table.add_column(shown, justify="right", no_wrap=True)
    for place, (metric, cells) in enumerate(comparison.cells.items()):
        if place:
            table.add_section()
        table.add_row(Text(metric, style="bold"), *[""] * (6 if several else 5))
        for name, cell in zip(comparison.names, cells, strict=True):
            table.add_row(Text(f" {name}"), *_row(cell, several), style="" if cell.paired else "dim")
    return table


def _row(cell: Cell, several: bool) -> list[str]:
    own = [_short(cell.value.value), interval_text(cell.value)]
    if cell.paired is None:
        return [*own, *[""] * (4 if several else 3)]
    paired, decides = cell.paired, cell.holm if several else cell.paired.p
    difference = _short(paired.difference, "+")
    ends = interval_text(Interval(paired.difference, paired.low, paired.high), "+")
    return [*own, f"[bold]{difference}[/bold]" if decides < _SIGNIFICANT else difference, ends, p_text(paired.p)] + (
        [p_text(cell.holm)] if several else []
    )


def _slices(comparison: Comparison, places: list[int]) -> Table:
    table = _plain_table(f"{comparison.headline} by slice")
    table.add_column("slice", max_width=24, overflow="fold")
    table.add_column("users", justify="right", no_wrap=True)
    for place in places:
        table.add_column(Text(comparison.names[place]), justify="right", overflow="fold", max_width=12)
    before = ""
    for row in comparison.slices:
        if before and row.slice != before:
            table.add_section()
        before = row.slice
        cells = [row.cells[place] for place in places]
        table.add_row(Text(f"{row.slice} {row.label}"), f"{row.users:,}", *map(_slice_cell, cells))
    return table


def _slice_cell(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    return _short(cell.value.value) + ("*" if cell.holm < _SIGNIFICANT else " ")


def _keys(comparison: Comparison) -> Table:
    table = _plain_table("Keys that differ")
    table.add_column("key", overflow="fold", ratio=3)
    if len(comparison.entries) > _RUNS_SIDE_BY_SIDE - 1:
        table.add_column("value: runs", overflow="fold", ratio=5)
        for key, values in comparison.keys:
            table.add_row(Text(key), Text("\n".join(f"{value}: {', '.join(names)}" for value, names in _holders(comparison.names, values))))
        return table
    for name in comparison.names:
        table.add_column(Text(name), overflow="fold", ratio=2)
    for key, values in comparison.keys:
        table.add_row(Text(key), *(Text(value or "") for value in values))
    return table


def _holders(names: list[str], values: list[str | None]) -> list[tuple[str, list[str]]]:
    """Each value with the runs that have it, in order of appearance; runs without the stage are left out."""
    found = [value for value in dict.fromkeys(values) if value is not None]
    return [(value, [name for name, own in zip(names, values, strict=True) if own == value]) for value in found]
