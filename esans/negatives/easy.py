"""Easy semantic negatives and their simple interpolation."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from esans.errors import ConfigError
from esans.negatives.base import Batch, Context, Negatives, Sampler, Terms
from esans.negatives.cluster_draws import ClusterDraws
from esans.negatives.clusters import draw_members, first_of_each
from esans.negatives.config import EasyConfig, value_at
from esans.negatives.edis import gram_of, mix_scores, simple_weights
from esans.negatives.neighbours import Neighbours
from esans.negatives.tables import Catalogue


class Easy(Sampler):
    """Items of other primary clusters, nearby ones first, and mixes of them inside each cluster (METHOD 3 and 4)."""

    kind = "semantic"

    Config = EasyConfig

    config: EasyConfig

    def __init__(self, config: EasyConfig, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.tables = catalogue.require_clusters(self.name)
        primaries = len(self.tables.primary_count_P)
        if config.clusters >= primaries:
            raise ConfigError(
                f"train.negatives: easy.clusters = {config.clusters}: must be below the number of primary clusters ({primaries})."
            )
        self.register_buffer("log_transitions_PP", self.tables.log_transitions(config.transition_temperature), persistent=False)
        self.draws = ClusterDraws(self.log_transitions_PP)
        self.spared = Neighbours(self.name, config.spare_neighbours, catalogue)

    log_transitions_PP: Tensor

    def propose(self, batch: Batch, user_BD: Tensor, generator: Generator) -> Negatives:
        """Draw (B, clusters, per_cluster) ids; masked: known and spared ones, repeats in the row, positives without a cluster."""
        primary_B = self.tables.item_primary_N[batch.target]
        clusters_BC = self.draws.draw(primary_B, self.config.clusters, generator)
        ids_BCM = draw_members(self.tables, clusters_BC, self.config.per_cluster, generator)
        fresh = first_of_each(ids_BCM.flatten(1)).view_as(ids_BCM)
        false_BCM = batch.knows(ids_BCM) | self.spared.hold(batch.target, ids_BCM)
        return Negatives(ids_BCM, fresh & ~false_BCM & (primary_B >= 0)[:, None, None])

    def refine(self, negatives: Negatives, scores: Tensor, context: Context) -> list[Terms]:
        """The draws, and virtual ones mixed inside each cluster."""
        terms = super().refine(negatives, scores, context)
        if not self.config.interpolate:
            return terms
        weights_BCVM, valid_BCV = simple_weights(negatives.valid, context.generator)
        gram_BCMM = gram_of(context.negative_vectors) if self.config.unit_norm else None
        virtual_BCV = mix_scores(scores, weights_BCVM.to(scores.dtype), gram_BCMM)
        virtual = self.terms(f"{self.name}_virtual", virtual_BCV.flatten(1), valid_BCV.flatten(1), context)
        virtual.log_weight = value_at(self.config.virtual_log_weight, context.epoch)
        return [*terms, virtual]

    def log_expected_count(self, context: Context, ids: Tensor) -> Tensor | None:
        """m_o / size times the expected count of the item's primary.

        For m_c = 2 that count is P_j (1 + sum_{k != j} P_k / (1 - P_k)), not 2 P_j (METHOD 3); above 2 there is no closed form.
        """
        if self.config.clusters > 2:
            return None
        p_BP = self.log_transitions_PP.exp()[self.tables.item_primary_N[context.batch.target].clamp_min(0)]
        if self.config.clusters == 2:
            odds_BP = p_BP / (1 - p_BP).clamp_min(1e-12)
            p_BP = p_BP * (1 + odds_BP.sum(1, keepdim=True) - odds_BP)
        ids_Bn = ids.expand(len(context.batch), -1)
        primary_Bn = self.tables.item_primary_N[ids_Bn]
        per_item_P = self.config.per_cluster / self.tables.primary_count_P
        count_Bn = p_BP.gather(1, primary_Bn.clamp_min(0)) * per_item_P[primary_Bn.clamp_min(0)]
        return torch.where(primary_Bn >= 0, count_Bn, 0.0).log()

    def draws_per_example(self, batch: Batch) -> int:
        """m_c * m_o real draws."""
        return self.config.clusters * self.config.per_cluster
