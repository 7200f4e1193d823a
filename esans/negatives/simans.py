"""Ambiguous negatives (SimANS)."""

from __future__ import annotations

from torch import Generator, Tensor

from esans.negatives.base import Batch, Context, Negatives, Sampler, Terms
from esans.negatives.candidates import draw_pools, encodings, gumbel_top_k, masked, picked
from esans.negatives.config_scored import SimansConfig
from esans.negatives.loss import scaled


class Simans(Sampler):
    """Candidates that score about as the positive does: p proportional to exp(-a (s_n - s+ - b)^2) (EMNLP 2022; METHOD 6).

    num_negatives are drawn from one pool without replacement. The paper's scores are inner products without bound; here
    cosines over the loss's temperature take their place unless `scale` says cosines, on which a = .5 hardly tells items apart.
    """

    kind = "semantic"

    Config = SimansConfig

    config: SimansConfig

    def propose(self, batch: Batch, user_BD: Tensor, generator: Generator) -> Negatives:
        """Draw one pool."""
        return draw_pools(self.config, 1, self.num_items, batch, generator)

    def refine(self, negatives: Negatives, scores: Tensor, context: Context) -> list[Terms]:
        """The draws."""
        distance_Bn = (scores - context.positive_score[:, None]).detach().float()
        if self.config.scale == "logits":
            distance_Bn = scaled(distance_Bn, context.temperature.detach())
        log_weight_Bn = masked(-self.config.a * (distance_Bn - self.config.b) ** 2, negatives.valid)
        place_Bk = gumbel_top_k(log_weight_Bn, self.config.num_negatives, context.generator)
        scores_Bk, valid_Bk, ids_Bk = picked(negatives, scores, place_Bk, context)
        return [self.terms(self.name, scores_Bk, valid_Bk, context, ids_Bk)]

    def draws_per_example(self, batch: Batch) -> int:
        """num_negatives."""
        return self.config.num_negatives

    def encodings_per_example(self, batch: Batch) -> float:
        """All candidates; a shared pool is encoded once for the batch."""
        return encodings(self.config, 1, batch)
