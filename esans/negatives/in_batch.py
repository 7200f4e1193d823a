"""In-batch negatives."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from esans.negatives.base import Batch, Context, Negatives, Sampler
from esans.negatives.config import InBatchConfig
from esans.negatives.tables import Catalogue


class InBatch(Sampler):
    """The batch's other positives, corrected by their share among the train positives: a global group, METHOD 4b and 6."""

    Config = InBatchConfig

    config: InBatchConfig
    log_probability_N: Tensor

    def __init__(self, config: InBatchConfig, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        # An item that was never a positive can't be drawn; log 0 = -inf adds nothing to a pooled count.
        self.register_buffer("log_probability_N", catalogue.target_probability_N.log(), persistent=False)

    def propose(self, batch: Batch, user_BD: Tensor, generator: Generator) -> Negatives:
        """All positives of the batch, shared; padding rows are no draws, nor are items without a share to correct by."""
        drawn = (batch.weight > 0) & torch.isfinite(self.log_probability_N[batch.target])
        valid = ~batch.knows(batch.target) & drawn[None, :]
        return Negatives(batch.target, valid)

    def log_expected_count(self, context: Context, ids: Tensor) -> Tensor:
        """B times the item's share among the positives."""
        return self.log_probability_N[ids] + math.log(self.draws_per_example(context.batch))

    def draws_per_example(self, batch: Batch) -> int:
        """B."""
        return len(batch)

    def encodings_per_example(self, batch: Batch) -> float:
        """None: the positives are encoded anyway."""
        return 0.0
