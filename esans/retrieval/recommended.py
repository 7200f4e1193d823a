"""What the lists hold, whether it was chosen or not: coverage, novelty and popularity lift of the first k, as integer sums.

With c_i the train positives of item i, C their sum and N the size of the catalogue:

- coverage@k         share of the items that may be recommended which stand in anybody's first k
- novelty@k          mean over all recommended items of -log2 p_i, where p_i = (c_i + 1) / (C + N); in bits
- popularity_lift@k  mean c_i of the recommended items over mean c_i of the targets; 1 recommends what users choose, above 1 the hits
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from esans.retrieval.ragged import Ragged
from esans.retrieval.sums import GROUPS

# Bits are added up as multiples of 2^-20.
_BIT = float(1 << 20)


class Recommended:
    """Sums over the lists of users, by group of users.

    sums: (GROUPS, 5) int64: bits, items, train positives of the lists; targets and their train positives. covered: (N,) uint8.
    """

    def __init__(self, counts_N: Tensor, available_N: Tensor) -> None:
        self._counts_N, self._available = counts_N, int(available_N.sum())
        share = (counts_N.double() + 1) / (float(counts_N.sum()) + len(counts_N))
        self._bits_N = (-torch.log2(share) * _BIT).round().to(torch.int64)
        self.sums = torch.zeros((GROUPS, 5), dtype=torch.int64)
        self.covered = torch.zeros(len(counts_N), dtype=torch.uint8)

    def add(self, ids_BK: Tensor, targets: Ragged, group_B: Tensor) -> None:
        """Take in the (B, k) best items of a batch, -1 for none, and the targets of its users."""
        ids_BK = ids_BK.cpu()
        there, items = ids_BK >= 0, ids_BK.clamp_min(0)
        listed = [torch.where(there, values, 0).sum(1) for values in (self._bits_N[items], there.long(), self._counts_N[items])]
        chosen = torch.zeros((len(targets), 2), dtype=torch.int64)
        chosen.index_add_(0, targets.rows, torch.stack([torch.ones_like(targets.values), self._counts_N[targets.values]], 1))
        self.sums.index_add_(0, group_B, torch.cat([torch.stack(listed, 1), chosen], 1))
        self.covered[ids_BK[there]] = 1

    def values(self, k: int) -> dict[str, float]:
        """Metrics over all users; NaN without lists."""
        covered = int(self.covered.sum()) / self._available if self._available else math.nan
        novelty, lift = self._ratios(self.sums.sum(0).double()[None])
        return {f"coverage@{k}": covered, f"novelty@{k}": float(novelty), f"popularity_lift@{k}": float(lift)}

    def drawn(self, weights_RG: Tensor, k: int) -> dict[str, Tensor]:
        """Novelty and lift under (r, GROUPS) float64 weights of the groups, (r,) each. Coverage is no mean over users and has none."""
        novelty, lift = self._ratios(weights_RG @ self.sums.double())
        return {f"novelty@{k}": novelty, f"popularity_lift@{k}": lift}

    @staticmethod
    def _ratios(sums_R5: Tensor) -> tuple[Tensor, Tensor]:
        bits, listed, listed_positives, targets, target_positives = sums_R5.unbind(1)
        return bits / listed / _BIT, (listed_positives / listed) / (target_positives / targets)
