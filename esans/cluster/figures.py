"""Plots of the cluster stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from esans.cluster.tables import Cells


def size_figure(cells: Cells, least: int, most: float) -> Figure:
    """Primary sizes from the largest to the smallest, with the bounds that repair keeps."""
    from matplotlib.figure import Figure

    sizes = np.sort(cells.sizes)[::-1]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.fill_between(np.arange(len(sizes)), sizes, step="mid", alpha=0.6)
    axes.axhline(least, color="tab:red", linestyle=":", label=f"least: {least}")
    axes.axhline(sizes.mean(), color="black", linestyle="--", label=f"mean: {sizes.mean():.0f}")
    axes.axhline(most, color="tab:orange", linestyle=":", label=f"largest allowed: {most:.0f}")
    axes.set(xlabel="primary cluster, by size", ylabel="items", ylim=(0, None))
    axes.legend()
    return figure


def hard_pool_figure(cells: Cells, n_h: int) -> Figure:
    """How many hard negatives an item can choose from: share of items with at most so many."""
    from matplotlib.figure import Figure

    order = np.argsort(cells.hard_pool)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.step(cells.hard_pool[order], np.cumsum(cells.count[order]) / cells.count.sum(), where="post")
    axes.axvline(n_h, color="tab:red", linestyle=":", label=f"n_h = {n_h}: below, topped up")
    axes.set(xlabel="items with the same primary and another secondary", ylabel="share of items", ylim=(0, 1))
    axes.legend()
    return figure


def transition_figure(probabilities: np.ndarray, temperature: float) -> Figure:
    """How an easy draw spreads: mean probability of the nearest, second nearest, .. primary."""
    from matplotlib.figure import Figure

    ranked = -np.sort(-probabilities, axis=1)[:, :-1]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(np.arange(1, ranked.shape[1] + 1), ranked.mean(axis=0), label=f"T_c = {temperature:g}")
    axes.axhline(1 / max(ranked.shape[1], 1), color="grey", linestyle=":", label="uniform")
    axes.set(xlabel="other primaries, by probability", ylabel="mean probability", yscale="log")
    axes.legend()
    return figure
