"""Uniform negatives (UNS)."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from esans.negatives.base import Batch, Context, Negatives, Sampler
from esans.negatives.config import UniformConfig


class Uniform(Sampler):
    """Negatives drawn uniformly over the catalogue (UNS): a global group, METHOD 4b and 6.

    One row of draws per example, or one pool for the whole batch, which encodes fewer items but correlates the negatives.
    """

    Config = UniformConfig

    config: UniformConfig

    def propose(self, batch: Batch, user_BD: Tensor, generator: Generator) -> Negatives:
        """Draw ids with replacement."""
        draws = self.config.num_negatives
        shape = (draws,) if self.config.shared else (len(batch), draws)
        ids = torch.randint(self.num_items, shape, generator=generator, device=user_BD.device)
        return Negatives(ids, valid=~batch.knows(ids))

    def log_expected_count(self, context: Context, ids: Tensor) -> Tensor:
        """num_negatives / N for every item."""
        return torch.full(ids.shape, math.log(self.config.num_negatives / self.num_items), device=ids.device)

    def draws_per_example(self, batch: Batch) -> int:
        """num_negatives, shared or not."""
        return self.config.num_negatives

    def encodings_per_example(self, batch: Batch) -> float:
        """A shared pool is encoded once for the batch."""
        return self.config.num_negatives / (len(batch) if self.config.shared else 1)
