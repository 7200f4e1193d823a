"""Draws of primary clusters without replacement (METHOD 3)."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn


class ClusterDraws(nn.Module):
    """Primaries other than a given one, without replacement, from P(. | C_i) (METHOD 3), by binary search in running sums.

    Gumbel top-k gives the same distribution, but takes a random key for each of P primaries; this takes one for each draw.
    `torch.multinomial` takes at most 2^24 categories, and without replacement it hides a host synchronisation.

    Args:
        log_transitions_PP: log P(C_j | C_i), -inf on the diagonal (`ClusterTables.log_transitions`).
    """

    ends_PP: Tensor
    primary_PP: Tensor

    def __init__(self, log_transitions_PP: Tensor) -> None:
        super().__init__()
        # Rising chances: running sums then hold small ones to full precision, and what is left once the likely ones are taken is
        # still told apart, however sharp the temperature. The primary itself comes first, with chance 0.
        ranked = log_transitions_PP.double().sort(1)
        # Buffers that a checkpoint need not hold: they follow from the data.
        self.register_buffer("ends_PP", ranked.values.exp().cumsum(1), persistent=False)
        self.register_buffer("primary_PP", ranked.indices, persistent=False)

    def draw(self, primary_B: Tensor, count: int, generator: Generator) -> Tensor:
        """(B, count) int64 in the order drawn; `count` is at most P - 1. Rows of `primary_B` that are -1 get a legal draw: mask them."""
        ends_BP = self.ends_PP[primary_B.clamp_min(0)]
        uniform_BC = torch.rand((len(ends_BP), count), generator=generator, dtype=ends_BP.dtype, device=ends_BP.device)
        # Stretches of the row that earlier draws have taken, the lowest first.
        taken_B0 = primary_B.new_empty((len(primary_B), 0))
        drawn = []
        for uniform_B in uniform_BC.unbind(1):
            start, stop = _start(ends_BP, taken_B0), ends_BP.gather(1, taken_B0)
            # Lengths between the stretches, each a difference of neighbours, so that small ones keep their precision.
            gaps = torch.cat([start, ends_BP[:, -1:]], 1) - torch.cat([torch.zeros_like(ends_BP[:, :1]), stop], 1)
            point_B = uniform_B * gaps.sum(1)
            for start_B, stop_B in zip(start.unbind(1), stop.unbind(1), strict=True):
                # At least the end, whatever rounding does: no primary comes twice.
                point_B = torch.where(point_B >= start_B, torch.maximum(point_B - start_B + stop_B, stop_B), point_B)
            place_B1 = torch.searchsorted(ends_BP, point_B[:, None], right=True).clamp_max(ends_BP.shape[1] - 1)
            drawn.append(place_B1)
            taken_B0 = torch.cat(drawn, 1).sort(1).values
        return self.primary_PP[primary_B.clamp_min(0)[:, None], torch.cat(drawn, 1)]


def _start(ends_BP: Tensor, place_Bn: Tensor) -> Tensor:
    """Where the stretches begin that end at `ends_BP[place]`; those at place 0 begin at 0."""
    return torch.where(place_Bn > 0, ends_BP.gather(1, (place_Bn - 1).clamp_min(0)), 0.0)
