"""Pictures of a comparison as inline SVG that takes its colours from the page, light or dark."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from esans.evaluate.plots import Line, draw_lines, slice_lines, title_of
from esans.evaluate.results import Comparison
from esans.svg import INK, inline_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_REFERENCE_COLORS = ("#8a8f98", "#b08d57")
_METHOD_COLORS = ("#4c8dd6", "#e0803f", "#4fa86a", "#a578c9", "#d3595f", "#3fa7b5", "#c9a227", "#7a86d1", "#c46aa0", "#7d9a45")


def pictures(comparison: Comparison) -> dict[str, str]:
    """Title -> SVG, in reading order; what the bundles do not hold is left out."""
    colors = _colors(comparison)
    metric = comparison.headline_metric
    result = {f"{metric} by method": _svg(partial(_bars, comparison=comparison, metric=metric, colors=colors))}
    for name in comparison.slices:
        lines = slice_lines(comparison.metric_rows, name, metric, comparison.split)
        if lines:
            result[f"{metric} {title_of(name)}"] = _svg(partial(_slice, lines=lines, metric=metric, colors=colors))
    curves = _epochs(comparison)
    for column, title in (("loss", "Training loss (methods sum different terms)"), ("recall_at_50", "Validation recall@50")):
        drawn = {name: epochs for name, epochs in curves.items() if column in epochs}
        if drawn:
            result[f"{title} by epoch"] = _svg(partial(_curves, epochs=drawn, column=column, colors=colors))
    if comparison.cluster is not None:
        sizes = sorted(comparison.cluster.table("primaries").arrow(["count"]).column(0).to_pylist(), reverse=True)
        result["Items in each primary cluster"] = _svg(partial(_sizes, sizes=sizes))
    return result


def _colors(comparison: Comparison) -> dict[str, str]:
    colors: dict[str, str] = {}
    rows = comparison.rows
    for group, palette in (
        ([r for r in rows if r.is_reference], _REFERENCE_COLORS),
        ([r for r in rows if not r.is_reference], _METHOD_COLORS),
    ):
        colors |= {row.name: palette[place % len(palette)] for place, row in enumerate(group)}
    return colors


def _epochs(comparison: Comparison) -> dict[str, dict[str, list[float]]]:
    result = {}
    for method in comparison.results:
        if method.train_bundle is not None and method.train_bundle.has("epochs"):
            result[method.name] = method.train_bundle.table("epochs").arrow().to_pydict()
    return result


def _bars(axes: Axes, comparison: Comparison, metric: str, colors: Mapping[str, str]) -> None:
    rows = [row for row in comparison.rows if metric in row.values][::-1]
    errors = [row.errors[metric] if row.errors[metric] == row.errors[metric] else 0.0 for row in rows]
    values = [row.values[metric] for row in rows]
    axes.barh([row.name for row in rows], values, xerr=errors, color=[colors[row.name] for row in rows], height=0.65, ecolor=INK, capsize=2)
    for place, (value, error) in enumerate(zip(values, errors, strict=True)):
        axes.annotate(f"{value:.3f}", (value + error, place), xytext=(5, 0), textcoords="offset points", va="center")
    axes.set(xlabel=metric, xlim=(0, max([*values, 1e-9]) * 1.18))


def _slice(axes: Axes, lines: list[Line], metric: str, colors: Mapping[str, str]) -> None:
    draw_lines(axes, lines, colors)
    axes.set(ylabel=metric, ylim=(0, None))


def _curves(axes: Axes, epochs: Mapping[str, Mapping[str, list[float]]], column: str, colors: Mapping[str, str]) -> None:
    from matplotlib.ticker import MaxNLocator

    for name, table in epochs.items():
        axes.plot([epoch + 1 for epoch in table["epoch"]], table[column], marker="o", markersize=4, label=name, color=colors.get(name))
    axes.set(xlabel="epoch", ylabel=column.replace("_at_", "@"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)


def _sizes(axes: Axes, sizes: list[int]) -> None:
    axes.bar(range(len(sizes)), sizes, width=1.0, color=_METHOD_COLORS[0])
    axes.axhline(sum(sizes) / max(len(sizes), 1), color=INK, linewidth=0.8, linestyle="--", label="mean")
    axes.set(xlabel="primary cluster, largest first", ylabel="items")
    axes.legend(frameon=False)


def _svg(draw: Callable[[Axes], None]) -> str:
    return inline_svg(draw, (6.4, 3.6), 9.5)
