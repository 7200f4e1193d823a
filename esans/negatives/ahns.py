"""Adaptive hardness negative sampling (AHNS)."""

from __future__ import annotations

from torch import Generator, Tensor

from esans.negatives.base import Batch, Context, Negatives, Sampler, Terms
from esans.negatives.candidates import best_of_each_pool, draw_pools, encodings, masked, picked
from esans.negatives.config_scored import AhnsConfig

# s+ + alpha stays above it: a negative power of 0 or below has no meaning here.
LOWEST_BASE = 1e-3


class Ahns(Sampler):
    """The candidate that minimises |s_m - beta (s+ + alpha)^(p + 1)|: easier the better the positive scores (AAAI 2024; METHOD 6).

    Scores are cosines. Each of num_negatives comes from a pool of its own; two pools that agree count once.
    """

    kind = "semantic"

    Config = AhnsConfig

    config: AhnsConfig

    def propose(self, batch: Batch, user_BD: Tensor, generator: Generator) -> Negatives:
        """Draw num_negatives pools."""
        return draw_pools(self.config, self.config.num_negatives, self.num_items, batch, generator)

    def refine(self, negatives: Negatives, scores: Tensor, context: Context) -> list[Terms]:
        """The candidate of each pool whose score comes closest to the one sought."""
        config = self.config
        base_B1 = (context.positive_score.detach().float() + config.alpha).clamp_min(LOWEST_BASE)[:, None]
        gap_Bn = (scores.detach().float() - config.beta * base_B1 ** (config.power + 1)).abs()
        place_BP = best_of_each_pool(masked(-gap_Bn, negatives.valid), config.candidates)
        scores_BP, valid_BP, ids_BP = picked(negatives, scores, place_BP, context)
        return [self.terms(self.name, scores_BP, valid_BP, context, ids_BP)]

    def draws_per_example(self, batch: Batch) -> int:
        """num_negatives."""
        return self.config.num_negatives

    def encodings_per_example(self, batch: Batch) -> float:
        """All candidates; a shared pool is encoded once for the batch."""
        return encodings(self.config, self.config.num_negatives, batch)
