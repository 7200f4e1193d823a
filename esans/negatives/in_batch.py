"""In-batch negatives."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from esans.negatives.base import Batch, Context, Negatives, Sampler
from esans.negatives.config import InBatchConfig
from esans.negatives.streaming import StreamingEstimate
from esans.negatives.tables import Catalogue


class InBatch(Sampler):
    """The batch's other positives, corrected by how often each is expected there: a global group, METHOD 4b and 6.

    The expected count is B times the item's share among the train positives, or the streaming estimate of its chance to
    be in a batch, which needs no counts but cannot exceed 1: it underrates head items that a batch holds several times.
    """

    Config = InBatchConfig

    config: InBatchConfig
    log_probability_N: Tensor

    def __init__(self, config: InBatchConfig, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.streaming = StreamingEstimate(catalogue.num_items, config.rate) if config.estimate == "streaming" else None
        # An item that was never a positive can't be drawn; log 0 = -inf adds nothing to a pooled count.
        self.register_buffer("log_probability_N", catalogue.target_probability_N.log(), persistent=False)

    def propose(self, batch: Batch, user_BD: Tensor, generator: Generator) -> Negatives:
        """All positives of the batch, shared; padding rows are no draws, nor are items without a share to correct by."""
        drawn = batch.weight > 0
        if self.streaming is None:
            drawn = drawn & torch.isfinite(self.log_probability_N[batch.target])
        valid = ~batch.knows(batch.target) & drawn[None, :]
        return Negatives(batch.target, valid)

    def log_expected_count(self, context: Context, ids: Tensor) -> Tensor:
        """B times the item's share among the positives, or the chance that streaming estimates."""
        rows = self.draws_per_example(context.batch)
        if self.streaming is not None:
            return self.streaming.log_probability(ids, rows)
        return self.log_probability_N[ids] + math.log(rows)

    def draws_per_example(self, batch: Batch) -> int:
        """B."""
        return len(batch)

    def encodings_per_example(self, batch: Batch) -> float:
        """None: the positives are encoded anyway."""
        return 0.0

    def observe(self, context: Context, loss_B: Tensor) -> None:
        """Feed the streaming estimate."""
        self.wait(context)

    def wait(self, context: Context) -> None:
        """The same, before the group enters."""
        if self.streaming is not None:
            self.streaming.observe(context.batch.target, context.batch.weight > 0)
