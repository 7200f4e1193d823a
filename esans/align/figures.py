"""Plots of the align stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from esans.align.trainer import Curve


def curve_figure(curve: Curve) -> Figure:
    """Training loss, and held-out recall of each pair of modalities, by epoch; a line marks the epoch that was kept."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    loss, recall = figure.subplots(1, 2)
    epochs = range(len(curve.loss))
    loss.plot(epochs, curve.loss)
    loss.set(xlabel="epoch", ylabel="InfoNCE loss per step")
    for name in curve.recalls[0] if curve.recalls else []:
        recall.plot(epochs, [found[name] for found in curve.recalls], label=name.partition(".")[2].replace("_", " "))
    recall.set(xlabel="epoch", ylabel="held-out recall@10")
    for axes in (loss, recall):
        axes.axvline(curve.best, color="grey", linestyle=":")
    if recall.lines[:-1]:
        recall.legend()
    return figure
