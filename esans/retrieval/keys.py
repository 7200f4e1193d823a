"""Scores as integers that order a catalogue without ties, the same on every device and for every way of cutting the work.

Two steps make a ranking independent of batch sizes, chunk sizes and the number of processes:

- Vectors are rounded to multiples of 2^-25. A product of two is a multiple of 2^-50, and for norms up to 2 no partial
  sum exceeds 4, so float64 holds every intermediate result exactly: the order of summation cannot matter.
- A score becomes a 64-bit key: its float32 bits in sortable form above, a scrambled item index below. Keys are distinct,
  and equal scores are ordered by the scramble, not by the index: indices often follow the order of the raw table,
  which is not neutral (popularity and neighbourhood scores tie all the time).
"""

from __future__ import annotations

import torch
from torch import Tensor

_GRID = float(2**25)
_LARGEST_NORM = 2.0

# Below every key of a finite score: an item that must not be ranked.
MASKED = torch.iinfo(torch.int64).min


def on_grid(vectors: Tensor) -> Tensor:
    """Vectors rounded to multiples of 2^-25, as float64, whose inner products are exact.

    Args:
        vectors: (n, d) of norm at most 2, any float type.

    Raises:
        ValueError: a component is not finite, or a norm exceeds 2.
    """
    rounded = (vectors.double() * _GRID).round() / _GRID
    if len(rounded):
        norm = float(torch.linalg.vector_norm(rounded, dim=1).max())
        if not norm <= _LARGEST_NORM:
            raise ValueError(f"vectors to be ranked must be finite with a norm of at most {_LARGEST_NORM}; the largest norm is {norm}")
    return rounded


def tie_order(item_idx: Tensor) -> Tensor:
    """A fixed scramble of item indices: a bijection of [0, 2^32), int64 (the finaliser of MurmurHash3)."""
    mixed = item_idx & 0xFFFFFFFF
    mixed = mixed ^ (mixed >> 16)
    mixed = _times(mixed, 0x85EBCA6B)
    mixed = mixed ^ (mixed >> 13)
    mixed = _times(mixed, 0xC2B2AE35)
    return mixed ^ (mixed >> 16)


def _times(value: Tensor, constant: int) -> Tensor:
    # A 32 x 32 bit product modulo 2^32 from two 16-bit halves, so that int64 never overflows.
    low, high = constant & 0xFFFF, constant >> 16
    return (value * low + (((value * high) & 0xFFFF) << 16)) & 0xFFFFFFFF


def keys_of(scores: Tensor, tie: Tensor) -> Tensor:
    """Distinct int64 keys that order items as their scores do, equal scores by `tie` (larger first).

    Args:
        scores: any float type without NaN; compared as float32.
        tie: `tie_order` of the items, broadcast against `scores`.
    """
    single = scores.to(torch.float32) + 0.0  # a copy, in which -0.0 and 0.0 are one score
    bits = single.view(torch.int32)
    bits ^= (bits >> 31).bitwise_and_(0x7FFFFFFF)  # negative floats order backwards by their bits
    return bits.to(torch.int64).bitwise_left_shift_(32).bitwise_or_(tie)


def score_of(keys: Tensor) -> Tensor:
    """The float32 scores inside keys; -inf for MASKED."""
    sortable = (keys >> 32).to(torch.int32)
    bits = torch.where(sortable < 0, sortable ^ 0x7FFFFFFF, sortable)
    return torch.where(keys == MASKED, torch.full_like(bits, 0, dtype=torch.float32) - torch.inf, bits.view(torch.float32))
