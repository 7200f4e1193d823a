"""The pictures of a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from esans.train.watch import DIAGNOSIS

_COLUMNS = 4

Records = Sequence[Mapping[str, float]]


def curves(records: Sequence[Mapping[str, float]]) -> Figure:
    """Loss and validation recall by epoch."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [record["epoch"] + 1 for record in records]
    left.plot(epochs, [record["loss"] for record in records], marker="o")
    left.set(xlabel="epoch", ylabel="loss", title="Training loss")
    for k in (10, 50, 200):
        right.plot(epochs, [record[f"recall_at_{k}"] for record in records], marker="o", label=f"Recall@{k}")
    right.set(xlabel="epoch", ylabel="recall", title="Validation recall", ylim=(0, None))
    right.legend()
    return figure


def negatives(records: Records) -> Figure:
    """What the negatives were like by epoch: hardness of each group, gradient shares, false negatives, effective number.

    Args:
        records: those of the epochs; a group has no figures in epochs before it enters.
    """
    share = DIAGNOSIS + "share_"
    groups = list(dict.fromkeys(name.removeprefix(share) for record in records for name in record if name.startswith(share)))
    rows = -(-len(groups) // _COLUMNS) + 1
    figure = Figure(figsize=(13, 3 * rows), layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, squeeze=False)
    epochs = [record["epoch"] + 1 for record in records]
    colors = {group: f"C{place % 10}" for place, group in enumerate(groups)}
    hard = list(axes[:-1].flat)
    for axis, group in zip(hard, groups, strict=False):
        _hardness(axis, epochs, records, group, colors[group])
        axis.sharey(hard[0])
    for spare in hard[len(groups) :]:
        spare.set_axis_off()
    shares, rates, lifts, effective = axes[-1]
    if groups:
        stack = [[0.0 if value != value else value for value in _values(records, "share_" + group)] for group in groups]
        shares.stackplot(epochs, stack, labels=groups, colors=[colors[group] for group in groups])
        shares.legend(fontsize="x-small", loc="lower left")
    shares.set(title="Gradient share", ylim=(0, 1), ylabel="share of the softmax mass")
    _by_group(rates, epochs, records, "false_negative_rate", groups, colors)
    rates.plot(epochs, _values(records, "false_negative_rate"), color="black", linestyle="--", label="all groups")
    rates.set(title="False-negative rate", ylabel="later positives among draws")
    rates.legend(fontsize="x-small")
    _by_group(lifts, epochs, records, "false_negative_lift", groups, colors)
    lifts.axhline(1, color="grey", linewidth=0.8)
    lifts.set(title="False negatives, times chance", ylabel="rate over that of uniform draws")
    effective.plot(epochs, _values(records, "effective_negatives"), color="black", marker="o")
    effective.set(title="Effective negatives", ylabel="exp(entropy), per example")
    for axis in (rates, lifts, effective):
        axis.set_ylim(bottom=0)
    for axis in axes.flat:
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
    return figure


def _values(records: Records, name: str) -> list[float]:
    return [record.get(DIAGNOSIS + name, float("nan")) for record in records]


def _hardness(axis: Axes, epochs: Sequence[float], records: Records, group: str, color: str) -> None:
    low, middle, high = (_values(records, f"hardness_{group}_{quantile}") for quantile in ("p10", "p50", "p90"))
    axis.fill_between(epochs, low, high, color=color, alpha=0.25, label="p10 to p90")
    axis.plot(epochs, middle, color=color, marker="o", label="median")
    axis.axhline(0, color="grey", linewidth=0.8)
    axis.set(title=f"Hardness: {group}", ylabel="negative minus positive score")
    axis.legend(fontsize="x-small")


def _by_group(
    axis: Axes,
    epochs: Sequence[float],
    records: Records,
    figure: str,
    groups: Sequence[str],
    colors: Mapping[str, str],
) -> None:
    for group in groups:
        values = _values(records, f"{figure}_{group}")
        if any(value == value for value in values):
            axis.plot(epochs, values, color=colors[group], marker="o", label=group)
