"""Bootstrap intervals of means over users: users are drawn again with replacement, and the spread of the means is read off.

Work and memory are bounded for any number of users. More than GROUPS users are first put into GROUPS groups at random, and the
groups are drawn: the mean of random groups spreads as the mean of users does, and the width of the interval is then itself known to
about 1 / sqrt(2 * GROUPS), which is 1 %.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
GROUPS = 4096

# Weights drawn at a time: 8 bytes each.
_WEIGHTS = 2_000_000


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its percentile interval; NaN where there is nothing to estimate from."""

    value: float
    low: float
    high: float


NOTHING = Interval(math.nan, math.nan, math.nan)


def bootstrap_interval(values: np.ndarray, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL) -> Interval:
    """Mean of (n,) values, one a user, with its bootstrap interval. NaN values are left out; the ends are NaN below two values."""
    values = np.asarray(values, dtype=np.float64)
    values = values[~np.isnan(values)]
    if not len(values):
        return NOTHING
    if len(values) < 2:
        return Interval(float(values[0]), math.nan, math.nan)
    sums, counts = group_sums(values[:, None], seed)
    means = np.concatenate([(weights @ sums)[:, 0] / (weights @ counts) for weights in resampled_weights(len(counts), resamples, seed)])
    return Interval(float(values.mean()), *percentile_ends(means, level))


def group_sums(values: np.ndarray, seed: int, groups: int = GROUPS) -> tuple[np.ndarray, np.ndarray]:
    """Sums (g, m) and counts (g,) of (n, m) values over random groups of nearly equal size; every row by itself where n <= groups."""
    size = len(values)
    if size <= groups:
        return values, np.ones(size)
    group = np.random.default_rng([seed, 1]).permutation(size) % groups
    sums = np.stack([np.bincount(group, weights=column, minlength=groups) for column in values.T], axis=1)
    return sums, np.bincount(group, minlength=groups).astype(np.float64)


def resampled_weights(groups: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of `groups` is drawn in each of `resamples` draws of as many, in chunks (r, groups) float64.

    The numbers depend on `groups`, `resamples` and `seed` alone. Memory: 16 MB a chunk, or one row.
    """
    random = np.random.default_rng([seed, 0])
    rows = max(1, _WEIGHTS // groups)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = random.integers(0, groups, size=(count, groups)) + np.arange(count)[:, None] * groups
        yield np.bincount(drawn.ravel(), minlength=count * groups).reshape(count, groups).astype(np.float64)


def percentile_ends(estimates: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The middle `level` of (r,) estimates; those that are not finite, from draws without any user, are left out."""
    estimates = estimates[np.isfinite(estimates)]
    if not len(estimates):
        return math.nan, math.nan
    low, high = np.quantile(estimates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
