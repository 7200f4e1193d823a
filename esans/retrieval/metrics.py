"""Ranking metrics from integer ranks, as integer sums that processes can add in any order (contract 7).

For a user with targets T and ranks r (1 is the best, 0 cannot be found):

- recall@k     |{r <= k}| / |T|
- hit_rate@k   1 when any r <= k
- ndcg@k       sum over r <= k of 1 / log2(1 + r), over the same sum for ranks 1 .. min(|T|, k)
- mrr          1 / the smallest r

Each is averaged over users. Values are added up as multiples of 2^-30, so the sums are the same whatever the split of the users.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from esans.retrieval.ragged import Ragged

KS = (10, 50, 200)
NDCG_K = 50
# Values of metrics are added up as multiples of 1 / ONE.
ONE = 1 << 30

# Ranks up to this one have a bin of their own in the histogram; bin 0 is "cannot be found", the last one is "beyond".
HISTOGRAM_RANKS = 1024


def user_metrics(ranks: Ragged, ks: Sequence[int] = KS, ndcg_k: int = NDCG_K) -> dict[str, Tensor]:
    """Metrics of every user: name -> (users,) float64. A user without targets gets NaN."""
    ranks = ranks.to("cpu")
    rows, value, lengths = ranks.rows, ranks.values, ranks.lengths.double()
    count = torch.where(lengths > 0, lengths, torch.nan)

    def per_user(weight: Tensor) -> Tensor:
        return torch.zeros(len(ranks), dtype=torch.float64).index_add_(0, rows, weight.double())

    found = value > 0
    result: dict[str, Tensor] = {}
    for k in ks:
        hits = per_user(found & (value <= k))
        result[f"recall@{k}"] = hits / count
        result[f"hit_rate@{k}"] = torch.where(count.isnan(), torch.nan, (hits > 0).double())
    discount = 1 / torch.log2(1 + torch.arange(1, ndcg_k + 1, dtype=torch.float64))
    gain = torch.where(found & (value <= ndcg_k), discount[value.clamp(1, ndcg_k) - 1], 0.0)
    ideal = discount.cumsum(0)[ranks.lengths.clamp(1, ndcg_k) - 1]
    result[f"ndcg@{ndcg_k}"] = torch.where(count.isnan(), torch.nan, per_user(gain) / ideal)
    reciprocal = torch.where(found, 1 / value.clamp_min(1).double(), 0.0)
    best = torch.zeros(len(ranks), dtype=torch.float64).scatter_reduce_(0, rows, reciprocal, "amax")
    result["mrr"] = torch.where(count.isnan(), torch.nan, best)
    return result


@dataclass
class MetricSums:
    """Sums over users, in integers: adding them is exact and has no order.

    names: M metrics; sums, squares: (M,) int64 in units of 2^-30; histogram: (HISTOGRAM_RANKS + 2,) int64 of target ranks.
    """

    names: tuple[str, ...]
    sums: Tensor
    squares: Tensor
    users: int
    targets: int
    histogram: Tensor

    @classmethod
    def zero(cls, ks: Sequence[int] = KS, ndcg_k: int = NDCG_K) -> MetricSums:
        """Nothing counted yet."""
        return ranking_metrics(Ragged.from_lists([]), ks, ndcg_k)

    def add(self, other: MetricSums) -> MetricSums:
        """Take in other users, in place. Raises ValueError when the metrics differ."""
        if other.names != self.names:
            raise ValueError(f"cannot add metrics {other.names} to {self.names}")
        self.sums, self.squares = self.sums + other.sums, self.squares + other.squares
        self.users, self.targets = self.users + other.users, self.targets + other.targets
        self.histogram = self.histogram + other.histogram
        return self

    def means(self) -> dict[str, float]:
        """Mean of every metric over the users; NaN without users."""
        return {name: int(total) / ONE / self.users if self.users else math.nan for name, total in zip(self.names, self.sums, strict=True)}

    def standard_errors(self) -> dict[str, float]:
        """Standard error of every mean, from the variance between users; NaN below two users."""
        result = {}
        for name, total, square in zip(self.names, self.sums, self.squares, strict=True):
            if self.users < 2:
                result[name] = math.nan
                continue
            mean = int(total) / ONE / self.users
            variance = max(int(square) / ONE / self.users - mean**2, 0.0) * self.users / (self.users - 1)
            result[name] = math.sqrt(variance / self.users)
        return result

    def pack(self) -> Tensor:
        """Everything as one (n,) int64 tensor, for a single all-reduce by sum."""
        counts = torch.tensor([self.users, self.targets], dtype=torch.int64)
        return torch.cat([counts, self.sums, self.squares, self.histogram])

    def unpack(self, packed: Tensor) -> MetricSums:
        """The inverse of `pack`, with the names of this object."""
        values, m = packed.cpu(), len(self.names)
        return MetricSums(self.names, values[2 : 2 + m], values[2 + m : 2 + 2 * m], int(values[0]), int(values[1]), values[2 + 2 * m :])


def ranking_metrics(ranks: Ragged, ks: Sequence[int] = KS, ndcg_k: int = NDCG_K) -> MetricSums:
    """Metrics of users given the ranks of their targets, as sums. Users without targets are not counted."""
    per_user = user_metrics(ranks, ks, ndcg_k)
    counted = ranks.lengths.cpu() > 0
    values_MU = torch.stack([value[counted] for value in per_user.values()])
    bins = ranks.values.cpu().clamp_max(HISTOGRAM_RANKS + 1)
    return MetricSums(
        names=tuple(per_user),
        sums=fixed(values_MU).sum(1),
        squares=fixed(values_MU**2).sum(1),
        users=int(counted.sum()),
        targets=len(bins),
        histogram=torch.bincount(bins, minlength=HISTOGRAM_RANKS + 2),
    )


def fixed(values: Tensor) -> Tensor:
    """Values as int64 multiples of 2^-30."""
    return (values * ONE).round().to(torch.int64)


def reduce_sums(sums: Mapping[str, MetricSums], device: torch.device | str = "cpu") -> dict[str, MetricSums]:
    """Sums over all ranks of torch.distributed, the same on each; unchanged when it is not initialised.

    Every rank must hold the same keys with the same metrics. One all-reduce of int64.
    """
    import torch.distributed as dist

    if not sums or not (dist.is_available() and dist.is_initialized()):
        return dict(sums)
    names = sorted(sums)
    packed = [sums[name].pack() for name in names]
    flat = torch.cat(packed).to(device)
    dist.all_reduce(flat)
    parts = flat.cpu().split([len(part) for part in packed])
    return {name: sums[name].unpack(part) for name, part in zip(names, parts, strict=True)}
