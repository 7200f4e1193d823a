"""Positive mixing of MixGCF."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from esans.negatives.base import Batch, Context, Negatives, Sampler, Terms
from esans.negatives.candidates import best_of_each_pool, draw_pools, encodings, masked, pool_cosines
from esans.negatives.config_scored import MixgcfConfig
from esans.negatives.edis import hard_scores


class Mixgcf(Sampler):
    """The hardest of M candidates mixed with the positive: a_m e+ + (1 - a_m) e_m, a_m ~ U(0, 1) (Huang, KDD 2021; METHOD 6).

    Two towers have no hops to mix. Each of num_negatives comes from a pool of its own. Nothing is detached: a mix passes
    gradient to the positive as well. Mixing happens on scores, which is the same because the score is linear.
    """

    kind = "semantic"

    Config = MixgcfConfig

    config: MixgcfConfig

    def propose(self, batch: Batch, user_BD: Tensor, generator: Generator) -> Negatives:
        """Draw num_negatives pools."""
        return draw_pools(self.config, self.config.num_negatives, self.num_items, batch, generator)

    def refine(self, negatives: Negatives, scores: Tensor, context: Context) -> list[Terms]:
        """The hardest mix of each pool: virtual terms, no items."""
        mix_Bn = torch.rand(scores.shape, generator=context.generator, device=scores.device).to(scores.dtype)
        cosine_Bn = pool_cosines(context.negative_vectors, context.positive_vector) if self.config.unit_norm else None
        mixed_Bn = hard_scores(scores, context.positive_score[:, None], mix_Bn, cosine_Bn)
        place_BP = best_of_each_pool(masked(mixed_Bn, negatives.valid), self.config.candidates)
        return [self.terms(self.name, mixed_Bn.gather(1, place_BP), negatives.valid.gather(1, place_BP), context)]

    def draws_per_example(self, batch: Batch) -> int:
        """num_negatives."""
        return self.config.num_negatives

    def encodings_per_example(self, batch: Batch) -> float:
        """All candidates; a shared pool is encoded once for the batch."""
        return encodings(self.config, self.config.num_negatives, batch)
