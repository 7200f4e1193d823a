"""Hard semantic negatives and their interpolation towards the positive."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from esans.negatives.base import Batch, Context, Negatives, Sampler, Terms
from esans.negatives.clusters import draw_hard, first_of_each, hard_pool_sizes
from esans.negatives.config import HardConfig, value_at
from esans.negatives.edis import hard_scores
from esans.negatives.neighbours import Neighbours
from esans.negatives.tables import Catalogue


class Hard(Sampler):
    """Items of the positive's own primary cluster with another secondary code, and mixes with the positive (METHOD 3 and 4)."""

    kind = "semantic"

    Config = HardConfig

    config: HardConfig

    def __init__(self, config: HardConfig, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.tables = catalogue.require_clusters(self.name)
        self.spared = Neighbours(self.name, config.spare_neighbours, catalogue)

    def propose(self, batch: Batch, user_BD: Tensor, generator: Generator) -> Negatives:
        """Draw (B, num_negatives) ids; masked: known and spared ones, repeats in the row, positives without a pool."""
        ids_BH, pool_B = draw_hard(self.tables, batch.target, self.config.num_negatives, generator)
        false_BH = batch.knows(ids_BH) | self.spared.hold(batch.target, ids_BH)
        return Negatives(ids_BH, first_of_each(ids_BH) & ~false_BH & pool_B[:, None])

    def refine(self, negatives: Negatives, scores: Tensor, context: Context) -> list[Terms]:
        """The draws, and each one moved towards the positive."""
        terms = super().refine(negatives, scores, context)
        if not self.config.interpolate:
            return terms
        positive_BD, score_B = context.positive_vector, context.positive_score
        if self.config.detach_positive:
            positive_BD = positive_BD.detach()
            score_B = (context.user * positive_BD).sum(-1)
        cosine_BH = (context.negative_vectors * positive_BD[:, None]).sum(-1) if self.config.unit_norm else None
        virtual_BH = hard_scores(scores, score_B[:, None], self._mix(scores, context), cosine_BH)
        virtual = self.terms(f"{self.name}_virtual", virtual_BH, negatives.valid, context)
        virtual.log_weight = value_at(self.config.virtual_log_weight, context.epoch)
        return [*terms, virtual]

    def _mix(self, scores_BH: Tensor, context: Context) -> Tensor:
        low, high = value_at(self.config.mix, context.epoch), self.config.mix_high
        if high is None:
            return torch.full_like(scores_BH, low)
        drawn = torch.rand(scores_BH.shape, generator=context.generator, device=scores_BH.device)
        return (low + (high - low) * drawn).to(scores_BH.dtype)

    def log_expected_count(self, context: Context, ids: Tensor) -> Tensor | None:
        """n_h / pool size for items of the pool (the fallback's among them), -inf elsewhere."""
        batch = context.batch
        tables, ids_Bn = self.tables, ids.expand(len(batch), -1)
        own_B, extra_B = hard_pool_sizes(tables, batch.target)
        cell_B = tables.item_cell_N[batch.target]
        primary_B1 = tables.item_primary_N[batch.target][:, None]
        fallback_B1 = tables.cell_fallback_S[cell_B.clamp_min(0)][:, None]
        item_primary_Bn = tables.item_primary_N[ids_Bn]
        beside = (item_primary_Bn == primary_B1) & (tables.item_cell_N[ids_Bn] != cell_B[:, None])
        topped_up = (item_primary_Bn == fallback_B1) & (fallback_B1 >= 0)
        in_pool = (beside | topped_up) & (item_primary_Bn >= 0) & (cell_B >= 0)[:, None]
        log_count = math.log(self.config.num_negatives) - (own_B + extra_B).clamp_min(1).log()[:, None]
        return torch.where(in_pool, log_count, -torch.inf)

    def draws_per_example(self, batch: Batch) -> int:
        """n_h real draws."""
        return self.config.num_negatives
