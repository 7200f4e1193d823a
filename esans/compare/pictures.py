"""Pictures of a comparison, side by side, as inline SVG that takes its ink from the page, light or dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from esans.compare.results import Comparison, SliceRow
from esans.svg import INK, inline_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#8a8f98", "#4c8dd6", "#e0803f", "#4fa86a", "#a578c9", "#d3595f", "#3fa7b5", "#c9a227", "#7a86d1", "#c46aa0")
_WIDTH = 5.6


def pictures(comparison: Comparison) -> dict[str, str]:
    """Title -> SVG, in reading order: values and differences of every metric, slices of the headline metric, training curves."""
    height = 1.0 + 0.24 * len(comparison.entries)
    result: dict[str, str] = {}
    for metric in comparison.cells:
        result[metric] = _svg(partial(_values, comparison=comparison, metric=metric), height)
        result[f"{metric}: difference to {comparison.names[0]}"] = _svg(partial(_differences, comparison=comparison, metric=metric), height)
    for name in dict.fromkeys(row.slice for row in comparison.slices):
        rows = [row for row in comparison.slices if row.slice == name]
        title = f"{comparison.headline} by {name}"
        result[title] = _svg(partial(_slice, comparison=comparison, rows=rows), 3.4)
    curves = _curves(comparison)
    if curves:
        result["Validation recall@50 by epoch"] = _svg(partial(_epochs, curves=curves, colors=_colors(comparison)), 3.4)
    return result


def _colors(comparison: Comparison) -> dict[str, str]:
    return {name: COLORS[place % len(COLORS)] for place, name in enumerate(comparison.names)}


def _values(axes: Axes, comparison: Comparison, metric: str) -> None:
    cells = comparison.cells[metric]
    intervals = [(cell.value.value, cell.value.low, cell.value.high) for cell in cells]
    _dots(axes, comparison.names, intervals, list(_colors(comparison).values()))


def _differences(axes: Axes, comparison: Comparison, metric: str) -> None:
    colors = _colors(comparison)
    tested = [
        (name, (cell.paired.difference, cell.paired.low, cell.paired.high))
        for name, cell in zip(comparison.names, comparison.cells[metric], strict=True)
        if cell.paired is not None
    ]
    axes.axvline(0, color=INK, linewidth=0.8, linestyle="--")
    _dots(axes, [name for name, _ in tested], [interval for _, interval in tested], [colors[name] for name, _ in tested])


def _dots(axes: Axes, names: Sequence[str], intervals: Sequence[tuple[float, float, float]], colors: Sequence[str]) -> None:
    """One dot a run over its interval, the first at the top."""
    for place, ((value, low, high), color) in enumerate(zip(intervals, colors, strict=True)):
        axes.errorbar(value, place, xerr=_bars(value, low, high), marker="o", markersize=5, capsize=3, color=color, linestyle="")
        axes.annotate(f"{value:.4f}", (value, place), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8)
    axes.set_yticks(range(len(names)), [_clipped(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.7)
    axes.margins(x=0.12)
    axes.grid(axis="x", linewidth=0.3, alpha=0.5)
    axes.locator_params(axis="x", nbins=6)


def _slice(axes: Axes, comparison: Comparison, rows: Sequence[SliceRow]) -> None:
    several = len(comparison.entries)
    for place, (name, color) in enumerate(_colors(comparison).items()):
        # Side by side within a slice, so that intervals do not hide one another.
        shift = (place - (several - 1) / 2) * min(0.12, 0.6 / several)
        for x, row in enumerate(rows):
            cell = row.cells[place]
            if cell is not None:
                bars = _bars(cell.value.value, cell.value.low, cell.value.high)
                axes.errorbar(x + shift, cell.value.value, yerr=bars, marker="o", markersize=4, capsize=2, linewidth=1.2, color=color)
        found = [(x + shift, row.cells[place]) for x, row in enumerate(rows)]
        drawn = [(x, cell.value.value) for x, cell in found if cell is not None]
        axes.plot([x for x, _ in drawn], [value for _, value in drawn], linewidth=1.2, color=color, label=name)
    turned: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if len(rows) > 7 else {}
    axes.set_xticks(range(len(rows)), [f"{_clipped(row.label, 16)} ({row.users:,})" for row in rows], fontsize=7.5, **turned)
    axes.set(ylabel=comparison.headline, xlabel="slice (users)", ylim=(0, None))
    axes.legend(frameon=False, fontsize=8)


def _curves(comparison: Comparison) -> dict[str, dict[str, list[float]]]:
    found = {}
    for entry in comparison.entries:
        train = entry.train_bundle()
        if train is not None and train.has("epochs"):
            table = train.table("epochs").arrow().to_pydict()
            if "recall_at_50" in table:
                found[entry.name] = table
    return found


def _epochs(axes: Axes, curves: Mapping[str, Mapping[str, list[float]]], colors: Mapping[str, str]) -> None:
    from matplotlib.ticker import MaxNLocator

    for name, table in curves.items():
        axes.plot([epoch + 1 for epoch in table["epoch"]], table["recall_at_50"], marker="o", markersize=4, color=colors[name], label=name)
    axes.set(xlabel="epoch", ylabel="recall@50")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=8)


def _bars(value: float, low: float, high: float) -> Any:
    return None if math.isnan(low) or math.isnan(high) else [[max(value - low, 0)], [max(high - value, 0)]]


def _clipped(text: str, most: int = 24) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _svg(draw: Callable[[Axes], None], height: float) -> str:
    return inline_svg(draw, (_WIDTH, height), 9)
