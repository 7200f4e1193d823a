"""How often an item is in a batch, estimated while the batches go by."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class StreamingEstimate(nn.Module):
    """Chance of each item to be in a batch, from the steps between its appearances (Yi et al., RecSys 2019; METHOD 6).

    When item y is in the batch of step t:  B_y <- (1 - a) B_y + a (t - A_y),  A_y <- t,  and its chance is p = 1 / B_y.
    The first gap is taken whole. An item that has not been met yet counts as rare as a uniform draw would make it, and as
    rarer once it has stayed away for longer. No gap is shorter than a step, so p saturates at 1: an item that every batch
    holds ten times counts once. Items with a few appearances have noisy gaps. The state goes into checkpoints.

    Args:
        num_items: N.
        rate: a in (0, 1].
    """

    gap_N1: Tensor
    last_N1: Tensor
    steps: Tensor

    def __init__(self, num_items: int, rate: float) -> None:
        super().__init__()
        self.num_items, self.rate = num_items, rate
        # One spare place takes what must not be counted.
        self.register_buffer("gap_N1", torch.zeros(num_items + 1))
        self.register_buffer("last_N1", torch.zeros(num_items + 1, dtype=torch.int64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def observe(self, ids_B: Tensor, counts_B: Tensor) -> None:
        """Take in the items of one step: ids (B,) int64, repeats count once, and whether each counts, (B,) bool."""
        self.steps += 1
        place_B = torch.where(counts_B, ids_B, self.num_items)
        last_B, gap_B = self.last_N1[place_B], self.gap_N1[place_B]
        passed_B = (self.steps - last_B).float()
        # Repeats compute and write the same values.
        self.gap_N1[place_B] = torch.where(last_B > 0, (1 - self.rate) * gap_B + self.rate * passed_B, passed_B)
        self.last_N1[place_B] = self.steps

    def log_probability(self, ids: Tensor, batch_size: int) -> Tensor:
        """Log chance of ids to be in a batch: float32 of the shape of `ids`, <= 0."""
        unmet = (self.steps + 1).clamp_min(self.num_items / batch_size)
        gap = torch.where(self.last_N1[ids] > 0, self.gap_N1[ids], unmet)
        return -gap.clamp_min(1.0).log()
