"""Intervals of every slice and metric of an evaluation, from one set of draws over the groups of its users."""

from __future__ import annotations

import math

import numpy as np
import torch

from esans.retrieval.bootstrap import percentile_ends, resampled_weights
from esans.retrieval.config import MetricsConfig
from esans.retrieval.metrics import ONE
from esans.retrieval.recommended import Recommended
from esans.retrieval.sums import GROUPS, SliceSums

# The place of a slice among the keys, and a metric.
Cell = tuple[int, str]


def drawn_metrics(by_slice: SliceSums, recommended: Recommended, config: MetricsConfig, seed: int) -> dict[Cell, np.ndarray]:
    """(resamples,) values of each metric in each slice, of what the lists hold in slice 0; NaN where a draw has no user of a slice."""
    parts: list[np.ndarray] = []
    lists: dict[str, list[np.ndarray]] = {}
    slices, _, metrics = by_slice.sums.shape
    sums = by_slice.sums.permute(1, 0, 2).reshape(GROUPS, -1).double().numpy() / ONE
    users = by_slice.users.T.double().numpy()
    for weights in resampled_weights(GROUPS, config.resamples, seed):
        with np.errstate(divide="ignore", invalid="ignore"):
            parts.append((weights @ sums).reshape(-1, slices, metrics) / (weights @ users)[:, :, None])
        for name, values in recommended.drawn(torch.from_numpy(weights), config.ndcg_k).items():
            lists.setdefault(name, []).append(values.numpy())
    if not parts:
        return {}
    whole = np.concatenate(parts)
    drawn = {(place, name): whole[:, place, column] for place in range(slices) for column, name in enumerate(by_slice.names)}
    return drawn | {(0, name): np.concatenate(values) for name, values in lists.items()}


def ends(drawn: np.ndarray | None, users: int, level: float) -> tuple[float, float]:
    """The interval of drawn values; NaN without draws, and below two users, who vary in nothing that could be drawn."""
    return (math.nan, math.nan) if drawn is None or users < 2 else percentile_ends(drawn, level)
