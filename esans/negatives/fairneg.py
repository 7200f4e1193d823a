"""Group-wise fair negatives (FairNeg)."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Generator, Tensor

from esans.negatives.base import Batch, Context, Negatives, Sampler, Terms
from esans.negatives.candidates import draw_pools, encodings, gumbel_top_k, masked, picked
from esans.negatives.config_scored import FairnegConfig
from esans.negatives.loss import scaled
from esans.negatives.tables import Catalogue

MOMENTUM = 0.9


class Fairneg(Sampler):
    """Draws that follow the scores and, by group, how badly its positives do (Chen, WWW 2023; METHOD 6).

    p = br softmax(s / T) + (1 - br) p_g / N_g over one pool, both parts normalised over its live candidates; draws are without
    replacement. Groups whose positives lose more than the mean are drawn less. Every `update_every` steps, with grad_g the
    group's mean of -log sigma(s+ / temperature) less the mean of the groups seen (0 for groups not seen):
    m_g <- .9 m_g + .1 grad_g, p_g <- p_g - lr m_g, clipped to [0, 1] and renormalised; p_g starts at N_g / N, a uniform draw.
    All processes learn from the examples of all, so that they agree.

    Raises:
        ConfigError: there is no such side column; the known ones are named.
    """

    kind = "semantic"

    Config = FairnegConfig

    config: FairnegConfig
    group_N: Tensor
    size_G: Tensor
    probability_G: Tensor
    momentum_G: Tensor
    loss_G: Tensor
    weight_G: Tensor
    steps: Tensor

    def __init__(self, config: FairnegConfig, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        if config.column is None:
            order_N = catalogue.target_probability_N.argsort(stable=True)
            group_N = torch.empty_like(order_N)
            group_N[order_N] = torch.arange(self.num_items) * min(config.groups, self.num_items) // self.num_items
        else:
            group_N = catalogue.require_side(self.name, config.column)
        size_G = torch.bincount(group_N)
        self.register_buffer("group_N", group_N, persistent=False)
        self.register_buffer("size_G", size_G.float(), persistent=False)
        self.register_buffer("probability_G", size_G.float() / self.num_items)
        for name in ("momentum_G", "loss_G", "weight_G"):
            self.register_buffer(name, torch.zeros(len(size_G)))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def propose(self, batch: Batch, user_BD: Tensor, generator: Generator) -> Negatives:
        """Draw one pool."""
        return draw_pools(self.config, 1, self.num_items, batch, generator)

    def refine(self, negatives: Negatives, scores: Tensor, context: Context) -> list[Terms]:
        """The draws."""
        by_score_Bn = torch.softmax(_finite(masked(scores / self.config.score_temperature, negatives.valid)), dim=1)
        by_group_N = (self.probability_G / self.size_G.clamp_min(1))[self.group_N]
        by_group_Bn = by_group_N[negatives.ids].expand_as(scores) * negatives.valid
        by_group_Bn = by_group_Bn / by_group_Bn.sum(1, keepdim=True).clamp_min(1e-30)
        share_Bn = self.config.hardness * by_score_Bn + (1 - self.config.hardness) * by_group_Bn
        # The floor leaves candidates of a group at 0 drawable where a row has no others.
        log_share_Bn = masked(share_Bn.clamp_min(1e-30).log(), negatives.valid)
        place_Bk = gumbel_top_k(log_share_Bn, self.config.num_negatives, context.generator)
        scores_Bk, valid_Bk, ids_Bk = picked(negatives, scores, place_Bk, context)
        return [self.terms(self.name, scores_Bk, valid_Bk, context, ids_Bk)]

    @torch.no_grad()
    def observe(self, context: Context, loss_B: Tensor) -> None:
        """Add the positives' losses to their groups, and move the group probabilities every `update_every` steps."""
        batch = context.batch
        positive_B = torch.nn.functional.softplus(-scaled(context.positive_score, context.temperature).float())
        group_B = self.group_N[batch.target]
        # The guard skips the update of a step that is not finite; what is learned here must not remember it either.
        weight_B = torch.where(torch.isfinite(positive_B), batch.weight, 0.0)
        positive_B = torch.where(weight_B > 0, positive_B, 0.0)
        sums_2G = torch.zeros(2, len(self.size_G), device=group_B.device)
        sums_2G.index_add_(1, group_B, torch.stack([positive_B * weight_B, weight_B]))
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums_2G)
        self.loss_G += sums_2G[0]
        self.weight_G += sums_2G[1]
        self.steps += 1
        # Both outcomes are computed: branching on the counter would wait for the device.
        due = self.steps % self.config.update_every == 0
        probability_G, momentum_G = self._moved()
        self.probability_G.copy_(torch.where(due, probability_G, self.probability_G))
        self.momentum_G.copy_(torch.where(due, momentum_G, self.momentum_G))
        for sums_G in (self.loss_G, self.weight_G):
            sums_G.copy_(torch.where(due, 0.0, sums_G))

    def _moved(self) -> tuple[Tensor, Tensor]:
        """Group probabilities and momentum after one update from the sums so far."""
        seen_G = self.weight_G > 0
        mean_G = torch.where(seen_G, self.loss_G / self.weight_G.where(seen_G, 1.0), 0.0)
        gradient_G = torch.where(seen_G, mean_G - mean_G.sum() / seen_G.sum().clamp_min(1), 0.0)
        momentum_G = MOMENTUM * self.momentum_G + (1 - MOMENTUM) * gradient_G
        clipped_G = (self.probability_G - self.config.rate * momentum_G).clamp(0, 1)
        return clipped_G / clipped_G.sum().clamp_min(1e-12), momentum_G

    def draws_per_example(self, batch: Batch) -> int:
        """num_negatives."""
        return self.config.num_negatives

    def encodings_per_example(self, batch: Batch) -> float:
        """All candidates; a shared pool is encoded once for the batch."""
        return encodings(self.config, 1, batch)


def _finite(values: Tensor) -> Tensor:
    """-inf at the lowest float, so that a row without any live candidate has a softmax."""
    return values.clamp_min(torch.finfo(values.dtype).min)
