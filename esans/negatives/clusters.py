"""Draws from the cluster tables on the device, by integer offsets (METHOD 3)."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from esans.negatives.tables import ClusterTables


def draw_members(tables: ClusterTables, clusters_BC: Tensor, count: int, generator: Generator) -> Tensor:
    """Items drawn uniformly, with replacement, inside given primaries: (B, C, count) int64."""
    shape = (*clusters_BC.shape, count)
    size = tables.primary_count_P[clusters_BC][..., None]
    place = below(size.expand(shape), generator)
    return tables.members_M[tables.primary_offset_P[clusters_BC][..., None] + place]


def hard_pool_sizes(tables: ClusterTables, items: Tensor) -> tuple[Tensor, Tensor]:
    """Size of each item's hard pool (same primary, other secondary) and of the primary that tops it up (0 where none)."""
    cell = tables.item_cell_N[items].clamp_min(0)
    own = tables.primary_count_P[tables.cell_primary_S[cell]] - tables.cell_count_S[cell]
    fallback = tables.cell_fallback_S[cell]
    extra = torch.where(fallback >= 0, tables.primary_count_P[fallback.clamp_min(0)], 0)
    assigned = tables.item_cell_N[items] >= 0
    return own * assigned, extra * assigned


def draw_hard(tables: ClusterTables, positive_B: Tensor, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Items of the positive's primary outside its cell, topped up from the fallback primary: uniform, with replacement.

    Returns:
        ids (B, count) int64 and valid (B,) bool; rows whose pool is empty hold legal ids and are invalid.
    """
    own_B, extra_B = hard_pool_sizes(tables, positive_B)
    total_B = own_B + extra_B
    cell = tables.item_cell_N[positive_B].clamp_min(0)
    primary_start = tables.primary_offset_P[tables.cell_primary_S[cell]][:, None]
    fallback_start = tables.primary_offset_P[tables.cell_fallback_S[cell].clamp_min(0)][:, None]
    drawn = below(total_B.clamp_min(1)[:, None].expand(-1, count), generator)
    # The pool is the primary with the positive's own cell cut out: places after the cut move up by the cell's size.
    cut = tables.cell_offset_S[cell][:, None] - primary_start
    inside = drawn + torch.where(drawn >= cut, tables.cell_count_S[cell][:, None], 0)
    place = torch.where(drawn < own_B[:, None], primary_start + inside, fallback_start + drawn - own_B[:, None])
    valid_B = total_B > 0
    return tables.members_M[torch.where(valid_B[:, None], place, 0)], valid_B


def first_of_each(ids: Tensor) -> Tensor:
    """Marks the first occurrence of every id in each row of (B, n): duplicates within a row get False."""
    order = ids.argsort(dim=1, stable=True)
    ranked = ids.gather(1, order)
    fresh = torch.ones_like(ids, dtype=torch.bool)
    fresh[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    return torch.empty_like(fresh).scatter_(1, order, fresh)


def below(size: Tensor, generator: Generator) -> Tensor:
    """Uniform integers in [0, size), elementwise. 63 random bits leave a bias below size / 2^63."""
    bits = torch.randint(0, 2**63 - 1, size.shape, generator=generator, device=size.device)
    return bits % size
