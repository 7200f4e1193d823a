"""Negatives that Spark joined to the examples: what the two stitched samplers share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator

from esans.negatives.base import Batch, Negatives
from esans.negatives.clusters import first_of_each


def take_draw(batch: Batch, column: str, shape: Sequence[int], generator: Generator) -> Negatives:
    """One of the stored draws of each example, chosen uniformly, with the masks of draws made on the device.

    Args:
        batch: B examples with the column in `extra`, (B, draws * cell) int64, padded with -1.
        column: its name.
        shape: (draws, *cell).
        generator: on the device of the batch.

    Returns:
        ids (B, *cell); masked: known ones, repeats in the row, and places without a negative, whose id is 0.
    """
    rows, (draws, *cell) = len(batch), shape
    stored = batch.extra[column].view(rows, draws, math.prod(cell))
    chosen_B = torch.randint(draws, (rows,), generator=generator, device=stored.device)
    ids = stored[torch.arange(rows, device=stored.device), chosen_B]
    there = (ids >= 0) & first_of_each(ids)
    ids = ids.clamp_min(0)
    return Negatives(ids.view(rows, *cell), (there & ~batch.knows(ids)).view(rows, *cell))
