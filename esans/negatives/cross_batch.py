"""Cross-batch negatives (CBNS)."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from esans.errors import ConfigError
from esans.negatives.base import Batch, Context, Negatives, Sampler
from esans.negatives.config_global import CrossBatchConfig
from esans.negatives.tables import Catalogue


class CrossBatch(Sampler):
    """The positives of past steps with the vectors they had then (CBNS): a global group, METHOD 4b and 6.

    A first-in first-out queue of `capacity` places, newest first, shared by the batch. It fills from the first step of the
    training on, also before the group enters, and goes into checkpoints. Until it is full, its empty places are masked and
    the expected counts are those of the places that are filled; `draws_per_example` is the capacity from the start. So the
    estimate of the full sum is unbiased at any filling, and the scale of the loss does not move as the queue fills. With
    several processes all use the queue of the first.

    Raises:
        ConfigError: at the first step, when the queue cannot hold one batch.
    """

    Config = CrossBatchConfig

    config: CrossBatchConfig
    log_probability_N: Tensor
    ids_M: Tensor
    vectors_MD: Tensor

    def __init__(self, config: CrossBatchConfig, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        dim = catalogue.require_dim(self.name)
        self.register_buffer("log_probability_N", catalogue.target_probability_N.log(), persistent=False)
        # An empty place holds id -1.
        self.register_buffer("ids_M", torch.full((config.capacity,), -1))
        self.register_buffer("vectors_MD", torch.zeros(config.capacity, dim))

    def propose(self, batch: Batch, user_BD: Tensor, generator: Generator) -> Negatives:
        """The whole queue; nothing is drawn and nothing encoded."""
        ids_M = self.ids_M.clamp_min(0)
        valid_BM = ~batch.knows(ids_M) & (self.ids_M >= 0)[None, :]
        return Negatives(ids_M, valid_BM, vectors=self.vectors_MD.to(user_BD.dtype))

    def log_expected_count(self, context: Context, ids: Tensor) -> Tensor:
        """Filled places times the item's share among the positives; -inf while the queue is empty."""
        return self.log_probability_N[ids] + (self.ids_M >= 0).sum().log()

    def draws_per_example(self, batch: Batch) -> int:
        """M, also while the queue fills."""
        return self.config.capacity

    def encodings_per_example(self, batch: Batch) -> float:
        """None: the vectors are those of past positives."""
        return 0.0

    def observe(self, context: Context, loss_B: Tensor) -> None:
        """Take the step's positives in, the oldest fall out."""
        self.wait(context)

    @torch.no_grad()
    def wait(self, context: Context) -> None:
        """The same, before the group enters."""
        batch = context.batch
        if len(batch) > self.config.capacity:
            raise ConfigError(
                f"train.negatives: {self.name}.capacity = {self.config.capacity} cannot hold one batch ({len(batch)} examples a process)."
            )
        # Padding, items without a share to correct by, and vectors of a step that the guard skips take a place that stays empty.
        finite_B = torch.isfinite(context.positive_vector).all(1)
        counts_B = (batch.weight > 0) & torch.isfinite(self.log_probability_N[batch.target]) & finite_B
        new_BD = torch.where(finite_B[:, None], context.positive_vector, 0.0).to(self.vectors_MD.dtype)
        new_B = torch.where(counts_B, batch.target, -1)
        # New tensors: the step's graph still holds the old vectors.
        self.ids_M = torch.cat([new_B, self.ids_M])[: self.config.capacity]
        self.vectors_MD = torch.cat([new_BD, self.vectors_MD])[: self.config.capacity]
