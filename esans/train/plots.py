"""The picture of a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure


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
