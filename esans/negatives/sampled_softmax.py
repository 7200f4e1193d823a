"""The loss that the project trains with unless told otherwise."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from esans.negatives.base import Context, Sampler, Terms
from esans.negatives.config_loss import SampledSoftmaxConfig
from esans.negatives.loss import Loss, sampled_softmax, scaled, softmax_logits


class SampledSoftmax(Loss):
    """-log softmax of the positive against all groups, global ones pooled and corrected, semantic ones weighed (METHOD 4b)."""

    Config = SampledSoftmaxConfig

    config: SampledSoftmaxConfig

    def logits(self, terms: Sequence[Terms], samplers: Sequence[Sampler], context: Context) -> list[Tensor]:
        """Corrected as the config says; -inf where masked."""
        return softmax_logits(terms, samplers, context, self.config.correction)

    def forward(self, logits: Sequence[Tensor], context: Context) -> Tensor:
        """(B,). The positive is never corrected."""
        return sampled_softmax(scaled(context.positive_score, context.temperature), logits)
