"""The picture of catalogue_growth: recall relative to in_batch against the size of the catalogue, one column a content share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.growth_report import BASELINE, ORDER, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def growth_figure(rows: Sequence[Row], ks: Sequence[int] = (50, 200)) -> Figure:
    """A panel for each content share and k. Bars are one standard error of the paired ratio over users; in_batch is the line at 1."""
    from matplotlib.figure import Figure

    shares = sorted({row["content"] for row in rows})
    figure = Figure(figsize=(4.2 * len(shares), 3.4 * len(ks)), layout="constrained")
    grid = figure.subplots(len(ks), len(shares), sharex=True, squeeze=False)
    for line, k in enumerate(ks):
        for axes, share in zip(grid[line], shares, strict=True):
            _panel(axes, [row for row in rows if row["content"] == share], k)
            if line == 0:
                axes.set_title(f"content explains {share:.0%} of behaviour")
        grid[line][0].set_ylabel(f"Recall@{k} relative to {BASELINE}")
    for axes in grid[-1]:
        axes.set_xlabel("items in the catalogue")
    grid[0][0].legend(fontsize=8)
    return figure


def _panel(axes: Axes, rows: Sequence[Row], k: int) -> None:
    axes.axhline(1, color="black", linewidth=0.8, label=BASELINE)
    for place, method in enumerate(ORDER):
        own = sorted((row for row in rows if row["method"] == method and f"ratio@{k}" in row), key=lambda row: int(row["items"]))
        if method == BASELINE or not own:
            continue
        # A little apart, so that bars do not hide each other.
        at = [row["items"] * 1.05 ** (place - 2) for row in own]
        bars = {"yerr": [row[f"ratio_se@{k}"] for row in own], "fmt": "o-", "capsize": 2, "markersize": 4}
        axes.errorbar(at, [row[f"ratio@{k}"] for row in own], label=method, color=f"C{place}", **bars)
    axes.set_xscale("log")
    axes.grid(alpha=0.3)
