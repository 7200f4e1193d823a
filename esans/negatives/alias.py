"""Draws from a fixed distribution over many items in constant time."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn


class AliasTable(nn.Module):
    """Vose's alias table (IEEE TSE 1991), built without a loop: 1e7 items take seconds, and 8 bytes each.

    Every item has a slot of equal chance, which yields the item itself or its one alias. Vose hands the excess of heavy
    items to light ones step by step; the step at which a heavy item runs dry depends on running sums alone, so that a
    binary search in them finds all steps at once.

    Args:
        weights_N: finite, >= 0, of any scale; an item of weight 0 is never drawn.

    Raises:
        ValueError: a weight is negative or not finite, or all are 0.
    """

    own_share_N: Tensor
    alias_N: Tensor

    def __init__(self, weights_N: Tensor) -> None:
        super().__init__()
        # Buffers that a checkpoint need not hold: they follow from the data.
        own_share_N, alias_N = _build(weights_N.double())
        self.register_buffer("own_share_N", own_share_N, persistent=False)
        self.register_buffer("alias_N", alias_N, persistent=False)

    def draw(self, shape: tuple[int, ...], generator: Generator) -> Tensor:
        """Independent ids, int64 of the given shape, on the table's device."""
        device = self.alias_N.device
        slot = torch.randint(len(self.alias_N), shape, generator=generator, device=device)
        keep = torch.rand(shape, generator=generator, device=device) < self.own_share_N[slot]
        return torch.where(keep, slot, self.alias_N[slot])


def _build(weights_N: Tensor) -> tuple[Tensor, Tensor]:
    """Share of its slot that each item keeps, float32, and the item that gets the rest, int32."""
    total = weights_N.sum()
    if not (torch.isfinite(total) and total > 0 and (weights_N >= 0).all()):
        raise ValueError("weights of an alias table must be finite and >= 0, and not all 0")
    # In units of a slot: light items leave room in theirs, heavy ones run over.
    mass_N = weights_N * (len(weights_N) / total)
    # Rounding may leave equal weights just below 1: the largest is heavy in any case.
    is_heavy = mass_N >= mass_N.max().clamp_max(1.0)
    light_L, heavy_H = (~is_heavy).nonzero().flatten(), is_heavy.nonzero().flatten()
    # Room filled before each light item's turn, and the total at the end; excess handed out once a heavy item is used up.
    room_L1 = torch.cat([mass_N.new_zeros(1), (1 - mass_N[light_L]).cumsum(0)])
    excess_H = (mass_N[heavy_H] - 1).cumsum(0)
    own_share_N, alias_N = mass_N.clone(), torch.arange(len(mass_N))
    giver_L = torch.searchsorted(excess_H, room_L1[:-1]).clamp_max(len(heavy_H) - 1)
    alias_N[light_L] = heavy_H[giver_L]
    # A heavy item that gave too much falls below 1 and is topped up by the next one; the last keeps its slot.
    dry_H = torch.searchsorted(room_L1, excess_H, right=True).clamp_max(len(light_L))
    own_share_N[heavy_H] = (1 + excess_H - room_L1[dry_H]).clamp(0, 1)
    alias_N[heavy_H[:-1]] = heavy_H[1:]
    own_share_N[heavy_H[-1]] = 1.0
    return own_share_N.float(), alias_N.int()
