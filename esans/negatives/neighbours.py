"""Likely false negatives: items that people buy together with the positive."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from esans.negatives.tables import Catalogue


class Neighbours(nn.Module):
    """The nearest items of each item by co-occurrence in train; a draw that is one of the positive's is masked."""

    nearest_NK: Tensor

    def __init__(self, sampler: str, count: int, catalogue: Catalogue) -> None:
        super().__init__()
        nearest_NK = catalogue.require_neighbours(sampler, count) if count else torch.full((1, 1), -1)
        self.count = count
        self.register_buffer("nearest_NK", nearest_NK.sort(dim=1).values, persistent=False)

    def hold(self, positive_B: Tensor, ids: Tensor) -> Tensor:
        """Whether draws (B, *cell) int64 are among the positives' nearest: bool of the same shape."""
        if not self.count:
            return torch.zeros_like(ids, dtype=torch.bool)
        nearest_BK, flat = self.nearest_NK[positive_B], ids.flatten(1)
        place = torch.searchsorted(nearest_BK, flat).clamp_max(nearest_BK.shape[1] - 1)
        return (nearest_BK.gather(1, place) == flat).view_as(ids)
