"""In-batch negatives."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from esans.negatives.base import Batch, Context, Negatives, Sampler
from esans.negatives.config import InBatchConfig
from esans.negatives.ranks import of_all_ranks, of_all_ranks_with_gradient, ranks
from esans.negatives.streaming import StreamingEstimate
from esans.negatives.tables import Catalogue


class InBatch(Sampler):
    """The batch's other positives, corrected by how often each is expected there: a global group, METHOD 4b and 6.

    With several processes, `gather` decides whose positives these are: those of all, with the gradient of every user's loss
    going back to the process that encoded them, or those of the process. B is the number of examples among them.

    The expected count is B times the item's share among the train positives, or the streaming estimate of its chance to
    be in a batch, which needs no counts but cannot exceed 1: it underrates head items that a batch holds several times.
    With `gather` every process estimates from the same positives; without, all use what the first one estimated from its own.
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
        """All positives, shared; padding rows are no draws, nor are items without a share to correct by."""
        ids, drawn = self._positives(batch)
        if self.streaming is None:
            drawn = drawn & torch.isfinite(self.log_probability_N[ids])
        valid = ~batch.knows(ids) & drawn[None, :]
        return Negatives(ids, valid, from_positives=of_all_ranks_with_gradient if self.config.gather else _own)

    def log_expected_count(self, context: Context, ids: Tensor) -> Tensor:
        """B times the item's share among the positives, or the chance that streaming estimates."""
        rows = self.draws_per_example(context.batch)
        if self.streaming is not None:
            return self.streaming.log_probability(ids, rows)
        return self.log_probability_N[ids] + math.log(rows)

    def draws_per_example(self, batch: Batch) -> int:
        """B."""
        return len(batch) * (ranks() if self.config.gather else 1)

    def encodings_per_example(self, batch: Batch) -> float:
        """None: the positives are encoded anyway."""
        return 0.0

    def observe(self, context: Context, loss_B: Tensor) -> None:
        """Feed the streaming estimate."""
        self.wait(context)

    def wait(self, context: Context) -> None:
        """The same, before the group enters."""
        if self.streaming is not None:
            self.streaming.observe(*self._positives(context.batch))

    def _positives(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Ids (n,) int64, and whether each is an example, (n,) bool."""
        if not self.config.gather:
            return batch.target, batch.weight > 0
        # One collective: -1 stands for padding.
        found = of_all_ranks(torch.where(batch.weight > 0, batch.target, -1))
        return found.clamp_min(0), found >= 0


def _own(positive_BD: Tensor) -> Tensor:
    return positive_BD
