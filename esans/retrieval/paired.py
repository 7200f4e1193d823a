"""Is one run better than another: a paired bootstrap over the users that both ranked."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from esans.retrieval.bootstrap import LEVEL, group_sums, percentile_ends, resampled_weights


@dataclass(frozen=True)
class PairedResult:
    """Two means over the same users, their difference a - b and ratio a / b with intervals, and a two-sided p of "no difference".

    NaN where there is nothing to compare; the ratio is NaN where mean_b is 0. `users` is how many were compared.
    """

    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    ratio: float
    ratio_low: float
    ratio_high: float
    p: float
    users: int = 0


NOTHING = PairedResult(math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, math.nan)


def paired_bootstrap(a: np.ndarray, b: np.ndarray, resamples: int = 10_000, seed: int = 0, level: float = LEVEL) -> PairedResult:
    """Compare a metric of two runs, user by user: users are drawn with replacement, always with both their values.

    p inverts the interval: twice the smaller share of draws whose difference lies on the other side of 0, never below
    2 / (resamples + 1). The interval of the difference excludes 0 where p < 1 - level, up to the resolution of the draws.

    Args:
        a: (n,) values of one run.
        b: (n,) values of the other for the same users in the same order (`common_users`). Users with NaN in either are left out.
        resamples: draws.
        seed: of the draws; the same seed gives the same result.
        level: of both intervals.

    Raises:
        ValueError: `a` and `b` differ in length.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"paired values must be two rows of one length, not of shapes {a.shape} and {b.shape}")
    both = ~(np.isnan(a) | np.isnan(b))
    a, b = a[both], b[both]
    if not len(a):
        return NOTHING
    # The difference is summed by itself: users without one must give exactly 0, not the rounding of two sums.
    sums, counts = group_sums(np.stack([a, b, a - b], axis=1), seed)
    return _compare(sums, counts, resamples, seed, level)


def paired_groups(
    sums_a: np.ndarray, sums_b: np.ndarray, users: np.ndarray, resamples: int = 10_000, seed: int = 0, level: float = LEVEL
) -> list[list[PairedResult]]:
    """The same test for many slices and metrics at once, where sums over random groups of users are at hand: groups are drawn.

    Args:
        sums_a: (g, s, m) sums of one run over g groups of users, in s slices of m metrics.
        sums_b: (g, s, m) of the other over the same users.
        users: (g, s) users of each group in each slice.
        resamples: draws. Memory: 24 bytes a draw, slice and metric.
        seed: of the draws.
        level: of both intervals.

    Returns:
        One list a slice with one result a metric.
    """
    groups, slices, metrics = sums_a.shape
    sums = np.stack([sums_a, sums_b, sums_a - sums_b], axis=-1).astype(np.float64)
    counts = users.astype(np.float64)
    parts = []
    for weights in resampled_weights(groups, resamples, seed):
        with np.errstate(divide="ignore", invalid="ignore"):
            parts.append((weights @ sums.reshape(groups, -1)).reshape(-1, slices, metrics, 3) / (weights @ counts)[:, :, None, None])
    drawn, totals, number = np.concatenate(parts), sums.sum(0), counts.sum(0)
    return [
        [_result(totals[place, metric], int(number[place]), drawn[:, place, metric], level) for metric in range(metrics)]
        for place in range(slices)
    ]


def _compare(sums: np.ndarray, counts: np.ndarray, resamples: int, seed: int, level: float) -> PairedResult:
    # sums: (g, 3) of a, b and a - b
    drawn = [(weights @ sums) / (weights @ counts)[:, None] for weights in resampled_weights(len(counts), resamples, seed)]
    return _result(sums.sum(0), int(counts.sum()), np.concatenate(drawn), level)


def _result(totals: np.ndarray, users: int, drawn: np.ndarray, level: float) -> PairedResult:
    # totals: (3,) over all users; drawn: (r, 3) means, NaN where a draw has no user
    if not users:
        return NOTHING
    mean_a, mean_b, difference = (float(total) / users for total in totals)
    ratio = mean_a / mean_b if mean_b else math.nan
    if users < 2:
        return PairedResult(mean_a, mean_b, difference, math.nan, math.nan, ratio, math.nan, math.nan, math.nan, users)
    drawn = drawn[np.isfinite(drawn[:, 2])]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = drawn[:, 0] / drawn[:, 1]
    below, above = int((drawn[:, 2] <= 0).sum()), int((drawn[:, 2] >= 0).sum())
    p = min(1.0, 2 * (min(below, above) + 1) / (len(drawn) + 1))
    ratio_ends = percentile_ends(ratios, level) if mean_b else (math.nan, math.nan)
    return PairedResult(mean_a, mean_b, difference, *percentile_ends(drawn[:, 2], level), ratio, *ratio_ends, p, users)


def common_users(users_a: np.ndarray, values_a: np.ndarray, users_b: np.ndarray, values_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values of the users that both runs have, in order of the user.

    Args:
        users_a: (n,) user indices of one run, each once.
        values_a: (n,) values, or (n, m) for m metrics.
        users_b: (k,) of the other, in any order.
        values_b: (k,) or (k, m).

    Raises:
        ValueError: a run names a user twice.
    """
    for users in (users_a, users_b):
        if len(np.unique(users)) != len(users):
            raise ValueError("a user stands twice in the values of a run: pick one method and one split first")
    _, place_a, place_b = np.intersect1d(users_a, users_b, assume_unique=True, return_indices=True)
    return values_a[place_a], values_b[place_b]
