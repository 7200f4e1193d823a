"""Generalised binary cross-entropy (gSASRec, Petrov and Macdonald 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from esans.negatives.base import Context, Sampler, Terms
from esans.negatives.config_loss import GbceConfig
from esans.negatives.loss import Loss, scaled


class Gbce(Loss):
    """-beta log sigma(s+) - sum_j log sigma(-s_j): calibrated for the rate at which negatives are sampled (METHOD 6).

    Published for one uniform group, whose K draws are what beta goes by. With more groups K counts all terms that are
    items, before masks; nothing is corrected for how it was drawn, and a semantic log-weight moves the group's logits.
    """

    Config = GbceConfig

    config: GbceConfig

    def logits(self, terms: Sequence[Terms], samplers: Sequence[Sampler], context: Context) -> list[Tensor]:
        """Scores over the temperature, which makes logits of cosines; -inf where masked."""
        return [
            (scaled(group.scores, context.temperature, group.temperature_ratio) + group.log_weight).masked_fill(~group.valid, -torch.inf)
            for group in terms
        ]

    def forward(self, logits: Sequence[Tensor], context: Context) -> Tensor:
        """(B,). A masked term adds nothing: -log sigma(inf) = 0."""
        draws = sum(group.scores.shape[1] for group in context.terms if group.ids is not None)
        positive_B = scaled(context.positive_score, context.temperature)
        negatives_B = torch.stack([F.softplus(values).sum(1) for values in logits]).sum(0)
        return self.beta(draws) * F.softplus(-positive_B) + negatives_B

    def beta(self, draws: int) -> float:
        """Power of the positive's sigmoid: a (t (1 - 1/a) + 1/a) with a = draws / (N - 1), in float64 (METHOD 6)."""
        rate = max(draws, 1) / max(self.num_items - 1, 1)
        return rate * (self.config.calibration * (1 - 1 / rate) + 1 / rate)
