"""Plots of the align stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from esans.align.trainer import Curve


def curve_figure(curve: Curve) -> Figure:
    """Loss, held-out recall of each pair of modalities, and the use of codebooks, by epoch; a line marks the epoch that was kept."""
    from matplotlib.figure import Figure

    books = {name for found in curve.books for name in found}
    figure = Figure(figsize=(20, 4) if books else (10, 4), layout="constrained")
    loss, recall, *rest = figure.subplots(1, 4 if books else 2)
    epochs = range(len(curve.loss))
    loss.plot(epochs, curve.loss)
    loss.set(xlabel="epoch", ylabel="InfoNCE loss per step")
    for name in curve.recalls[0] if curve.recalls else []:
        recall.plot(epochs, [found[name] for found in curve.recalls], label=name.partition(".")[2].replace("_", " "))
    recall.set(xlabel="epoch", ylabel="held-out recall@10")
    for axes, figure_name in zip(rest, ("utilisation", "perplexity"), strict=True) if books else ():
        for level in ("primary", "secondary"):
            axes.plot(epochs, [found.get(f"vq.{level}.{figure_name}", float("nan")) for found in curve.books], label=level)
        axes.set(xlabel="epoch", ylabel=f"{figure_name} of the codebooks")
    for axes in (loss, recall, *rest):
        axes.axvline(curve.best, color="grey", linestyle=":")
        if axes is not loss and axes.lines[:-1]:
            axes.legend()
    return figure
