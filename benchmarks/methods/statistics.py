"""How sure a difference between two methods is: users resampled in pairs, seeds as noise of their own, data sets averaged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm as normal
from scipy.stats import t as student

Floats = NDArray[np.float64]

_CHUNK_VALUES = 4_000_000
"""Users times resamples that are held at once: about 50 MB."""
_LARGEST_SHIFT = 3.0
"""Bound on the log of a seed's shift, against overflow where a method's recall is near 0."""
_TINY = 1e-12


@dataclass(frozen=True)
class Sample:
    """Recalls of one method on one data set.

    `recall_SU`: (seeds, users) in [0, 1], users in the same order for every method of the data set. `deterministic`: another
    seed would give the same, so one row is the whole truth; otherwise one row has a seed noise that nobody knows.
    """

    recall_SU: NDArray[np.float32]
    deterministic: bool = False

    @property
    def seeds(self) -> int:
        """Number of seeds."""
        return len(self.recall_SU)

    @property
    def seed_means(self) -> Floats:
        """(S,) recall of each seed."""
        return np.asarray(self.recall_SU.mean(1, dtype=np.float64))

    @property
    def mean(self) -> float:
        """Mean over users and seeds."""
        return float(self.seed_means.mean())

    @property
    def sd(self) -> float:
        """Standard deviation over seeds; NaN for one seed."""
        return float(self.seed_means.std(ddof=1)) if self.seeds > 1 else float("nan")

    @property
    def seeds_suffice(self) -> bool:
        """Whether the seed noise is known."""
        return self.deterministic or self.seeds > 1

    def seed_error(self) -> float:
        """Standard error of the mean that comes from seeds and not from which users were tested.

        In U users the means of S seeds differ also because a seed moves single users up and down. Resampling users shows that
        part already, so its variance, measured by the residuals of the (S, U) table after seed and user means, is taken off;
        else it would count twice and hide real differences.
        """
        if self.deterministic or self.seeds < 2:
            return 0.0
        table = self.recall_SU.astype(np.float64)
        residual = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
        users = table.shape[1]
        interaction = (residual**2).sum() / ((self.seeds - 1) * max(users - 1, 1)) / (self.seeds * users)
        return float(np.sqrt(max(0.0, table.mean(1).var(ddof=1) / self.seeds - interaction)))


@dataclass(frozen=True)
class Estimate:
    """A value, its 95 % interval, and the two-sided p-value of no effect."""

    value: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Resamples:
    """Mean recall of each method on one data set; the users are common to all methods.

    `measured`: the recall. `drawn`: (R,) under resampling. `seed_error`: the part of its relative standard error that comes from
    seeds. `degrees`: S - 1, how well that part is known.
    """

    measured: Mapping[str, float]
    drawn: Mapping[str, Floats]
    seed_error: Mapping[str, float]
    degrees: Mapping[str, int]


def standard_error(sample: Sample) -> float:
    """Standard error of the mean over users, of recalls averaged over seeds."""
    users = sample.recall_SU.mean(0, dtype=np.float64)
    return float(users.std(ddof=1) / np.sqrt(users.size))


def resample(samples: Mapping[str, Sample], resamples: int = 10_000, seed: int = 0) -> Resamples:
    """Draw users with replacement, the same for all methods, and for each method a seed noise of its own.

    Drawing five seeds of five with replacement is too narrow by a factor of 0.89 and counts single users' luck twice. So the shift
    of a method's mean is drawn from a normal distribution with its standard error over seeds (`Sample.seed_error`); that the error
    itself is known from few seeds is accounted for in the intervals and p-values. The shift multiplies, so recalls stay positive.

    Args:
        samples: recalls of each method, over the same users; ValueError where the numbers of users differ.
        resamples: number R of draws.
        seed: of the draws; another for each data set, or their noise would add up instead of averaging out.
    """
    users = {sample.recall_SU.shape[1] for sample in samples.values()}
    if len(users) > 1:
        raise ValueError(f"methods were tested on different numbers of users ({sorted(users)}); they cannot be paired")
    if not samples:
        return Resamples({}, {}, {}, {})
    rng = np.random.default_rng(seed)
    table_MU = np.stack([sample.recall_SU.mean(0, dtype=np.float64) for sample in samples.values()])
    drawn_MR = _resample_users(table_MU, resamples, rng)
    measured = {name: sample.mean for name, sample in samples.items()}
    errors = {name: sample.seed_error() / max(measured[name], _TINY) for name, sample in samples.items()}
    for mean_R, error in zip(drawn_MR, errors.values(), strict=True):
        if error > 0:
            mean_R *= np.exp(np.clip(rng.standard_normal(resamples) * error, -_LARGEST_SHIFT, _LARGEST_SHIFT))
    degrees = {name: sample.seeds - 1 for name, sample in samples.items()}
    return Resamples(measured, dict(zip(samples, drawn_MR, strict=True)), errors, degrees)


def _resample_users(table_MU: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """(M, R) means under multinomial weights of the users, a chunk of resamples at a time."""
    users = table_MU.shape[1]
    chunk = max(1, _CHUNK_VALUES // users)
    parts = []
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = rng.integers(users, size=(rows, users), dtype=np.int64)
        drawn += np.arange(rows)[:, None] * users
        counts_RU = np.bincount(drawn.ravel(), minlength=rows * users).reshape(rows, users)
        parts.append(table_MU @ counts_RU.T.astype(np.float64) / users)
    return np.concatenate(parts, axis=1)


def ratio(datasets: Iterable[Resamples], a: str, b: str) -> Estimate:
    """Mean over data sets of the ratio of recalls of `a` to `b`; p is for a ratio of 1."""
    known = list(datasets)
    measured = [_quotient(each.measured[a], each.measured[b]) for each in known]
    drawn = [_quotient(each.drawn[a], each.drawn[b]) for each in known]
    seeds = [
        _SeedPart(float(value) * each.seed_error[name] / len(known), each.degrees[name])
        for value, each in zip(measured, known, strict=True)
        for name in (a, b)
    ]
    return _estimate(measured, drawn, seeds, no_effect=1.0)


def difference(datasets: Iterable[Resamples], a: str, b: str) -> Estimate:
    """Mean over data sets of the difference of recalls of `a` and `b`; p is for a difference of 0."""
    known = list(datasets)
    measured = [each.measured[a] - each.measured[b] for each in known]
    drawn = [each.drawn[a] - each.drawn[b] for each in known]
    seeds = [_SeedPart(each.measured[name] * each.seed_error[name] / len(known), each.degrees[name]) for each in known for name in (a, b)]
    return _estimate(measured, drawn, seeds, no_effect=0.0)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values adjusted for their number (Holm 1979): the chance of one false finding in the family stays below the level."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


@dataclass(frozen=True)
class _SeedPart:
    """The standard error that the seeds of one method on one data set give the statistic, and its degrees of freedom."""

    error: float
    degrees: int


def _quotient(a: float | Floats, b: float | Floats) -> Floats:
    """The ratio; NaN where the divisor is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.asarray(b) > 0, np.asarray(a, np.float64) / b, np.nan)


def _estimate(measured: Sequence[float | Floats], drawn: Sequence[Floats], seeds: Sequence[_SeedPart], no_effect: float) -> Estimate:
    """Average over data sets; percentiles and the doubled share of draws beyond no effect, read off Student's t instead of the normal.

    The degrees of freedom are those of Welch and Satterthwaite: many where users make the noise, few where five seeds do.
    One draw is added to the share, so that p is never 0.
    """
    value, pooled = float(np.mean(np.array(measured, np.float64))), np.mean(drawn, axis=0)
    pooled = pooled[np.isfinite(pooled)]
    if not pooled.size or not np.isfinite(value):
        return Estimate(value, float("nan"), float("nan"), float("nan"))
    uncertain = sum(part.error**4 / part.degrees for part in seeds if part.error > 0)
    degrees = float(pooled.var() ** 2 / uncertain) if uncertain > 0 else np.inf
    low, high = np.quantile(pooled, [0.025, 0.975])
    wider = float(student.isf(0.025, degrees) / normal.isf(0.025))
    side = 1 + min(np.count_nonzero(pooled <= no_effect), np.count_nonzero(pooled >= no_effect))
    p = min(1.0, 2 * float(student.sf(normal.isf(min(0.5, side / (pooled.size + 1))), degrees)))
    return Estimate(value, value - (value - float(low)) * wider, value + (float(high) - value) * wider, p)
