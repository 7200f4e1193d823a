"""Dynamic negative sampling (DNS)."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from esans.negatives.base import Batch, Context, Negatives, Sampler, Terms
from esans.negatives.candidates import best_of_each_pool, draw_pools, encodings, flat_place, masked, picked
from esans.negatives.clusters import below
from esans.negatives.config_scored import DnsConfig


class Dns(Sampler):
    """The hardest of M uniform candidates, or a random one of the m hardest (Zhang 2013; DNS(M, N), Shi 2023; METHOD 6).

    Each of num_negatives comes from a pool of its own, as in the reference code; two pools that agree count once.
    """

    kind = "semantic"

    Config = DnsConfig

    config: DnsConfig

    def propose(self, batch: Batch, user_BD: Tensor, generator: Generator) -> Negatives:
        """Draw num_negatives pools."""
        return draw_pools(self.config, self.config.num_negatives, self.num_items, batch, generator)

    def refine(self, negatives: Negatives, scores: Tensor, context: Context) -> list[Terms]:
        """One of the hardest live candidates of each pool."""
        size, top = self.config.candidates, self.config.top
        values_Bn = masked(scores, negatives.valid)
        if top == 1:
            place_BP = best_of_each_pool(values_Bn, size)
        else:
            hardest_BPm = values_Bn.view(len(scores), -1, size).topk(top, dim=-1)
            # A pool with fewer than m live candidates draws among those.
            live_BP = torch.isfinite(hardest_BPm.values).sum(-1).clamp_min(1)
            drawn_BP = below(live_BP, context.generator)
            place_BP = flat_place(hardest_BPm.indices.gather(-1, drawn_BP[..., None])[..., 0], size)
        scores_BP, valid_BP, ids_BP = picked(negatives, scores, place_BP, context)
        return [self.terms(self.name, scores_BP, valid_BP, context, ids_BP)]

    def draws_per_example(self, batch: Batch) -> int:
        """num_negatives."""
        return self.config.num_negatives

    def encodings_per_example(self, batch: Batch) -> float:
        """All candidates; a shared pool is encoded once for the batch."""
        return encodings(self.config, self.config.num_negatives, batch)
