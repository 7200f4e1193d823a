"""The loss that the project trains with unless told otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from esans.negatives.base import Context, Sampler, Terms
from esans.negatives.config_loss import SampledSoftmaxConfig
from esans.negatives.loss import Loss, pooled_correction, sampled_softmax, scaled


class SampledSoftmax(Loss):
    """-log softmax of the positive against all groups, global ones pooled and corrected, semantic ones weighed (METHOD 4b)."""

    Config = SampledSoftmaxConfig

    config: SampledSoftmaxConfig

    def logits(self, terms: Sequence[Terms], samplers: Sequence[Sampler], context: Context) -> list[Tensor]:
        """Divided by the temperature before the correction is subtracted; -inf where masked."""
        pooled = [sampler for sampler in samplers if sampler.kind == "global"]
        logits = []
        for group in terms:
            values = scaled(group.scores, context.temperature, group.temperature_ratio)
            if group.kind == "semantic":
                values = values + group.log_weight
            elif self.config.correction != "none" and group.ids is not None:
                values = values - pooled_correction(pooled, context, group.ids, full=self.config.correction == "full")
            logits.append(values.masked_fill(~group.valid, -torch.inf))
        return logits

    def forward(self, logits: Sequence[Tensor], context: Context) -> Tensor:
        """(B,). The positive is never corrected."""
        return sampled_softmax(scaled(context.positive_score, context.temperature), logits)
