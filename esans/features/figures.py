"""Plots of the features stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def coverage_figure(figures: Mapping[str, float]) -> Figure:
    """Share of items with each modality, and with neighbours in the graph."""
    from matplotlib.figure import Figure

    shares = {name.removesuffix(".coverage"): value for name, value in figures.items() if name.endswith(".coverage")}
    figure = Figure(figsize=(6, 1 + 0.5 * len(shares)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(list(shares), list(shares.values()))
    axes.bar_label(bars, [f"{value:.1%}" for value in shares.values()], padding=3)
    axes.set_xlim(0, 1.15)
    axes.set_xlabel("share of items")
    axes.invert_yaxis()
    return figure
