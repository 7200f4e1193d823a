"""Integer sums of the metrics of users by slice, and by group of users within it: what ranks add up, and what intervals are drawn from.

Users fall into GROUPS groups by a hash of their index, whoever ranks them. A group's sum is an integer, so the sums of several
processes are those of one, bit for bit. The bootstrap draws the groups instead of the users: the width of an interval is then known to
about 1 / sqrt(2 * GROUPS), which is 2 %, and memory is about 80 kB a slice for any number of users.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from esans.retrieval.keys import tie_order
from esans.retrieval.metrics import HISTOGRAM_RANKS, MetricSums, fixed, user_metrics
from esans.retrieval.ragged import Ragged

GROUPS = 1024


def group_of(users: Tensor) -> Tensor:
    """(B,) int64 group of every user index."""
    return tie_order(users) % GROUPS


class SliceSums:
    """Sums over the users of S slices with M metrics, all int64.

    sums: (S, GROUPS, M) in units of 2^-30; users: (S, GROUPS); squares: (S, M); histogram: (S, HISTOGRAM_RANKS + 2) of target ranks.
    """

    def __init__(self, slices: int, ks: Sequence[int], ndcg_k: int) -> None:
        self._ks, self._ndcg_k = tuple(ks), ndcg_k
        self.names = tuple(user_metrics(Ragged.from_lists([]), ks, ndcg_k))
        self.sums = torch.zeros((slices, GROUPS, len(self.names)), dtype=torch.int64)
        self.users = torch.zeros((slices, GROUPS), dtype=torch.int64)
        self.squares = torch.zeros((slices, len(self.names)), dtype=torch.int64)
        self.histogram = torch.zeros((slices, HISTOGRAM_RANKS + 2), dtype=torch.int64)

    def add(self, place: Tensor, ranks: Ragged, group_B: Tensor) -> None:
        """Take in a batch under one way of cutting.

        Args:
            place: (total,) the slice of every target.
            ranks: their ranks, B rows on the CPU. A user counts once in each slice that holds one of its targets.
            group_B: `group_of` the users.
        """
        slices = len(self.users)
        pair, order = (ranks.rows * slices + place).sort(stable=True)
        of, counts = torch.unique_consecutive(pair, return_counts=True)
        metrics = user_metrics(Ragged.from_lengths(counts, ranks.values[order]), self._ks, self._ndcg_k)
        values_PM = torch.stack(list(metrics.values()), 1)
        slice_P = of % slices
        cell_P = slice_P * GROUPS + group_B[of // slices]
        self.sums.view(-1, len(self.names)).index_add_(0, cell_P, fixed(values_PM))
        self.users.view(-1).index_add_(0, cell_P, torch.ones_like(cell_P))
        self.squares.index_add_(0, slice_P, fixed(values_PM**2))
        bins = place * self.histogram.shape[1] + ranks.values.clamp_max(HISTOGRAM_RANKS + 1)
        self.histogram.view(-1).index_add_(0, bins, torch.ones_like(bins))

    @property
    def tensors(self) -> list[Tensor]:
        """All sums, in a fixed order, to be added over the ranks."""
        return [self.sums, self.users, self.squares, self.histogram]

    def of_slice(self, place: int) -> MetricSums:
        """The sums of one slice over all its users."""
        users, histogram = int(self.users[place].sum()), self.histogram[place]
        return MetricSums(self.names, self.sums[place].sum(0), self.squares[place], users, int(histogram.sum()), histogram)
