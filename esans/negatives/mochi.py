"""Hard negative mixing (MoCHi)."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from esans.negatives.base import Batch, Context, Negatives, Sampler, Terms
from esans.negatives.candidates import draw_pools, encodings, masked, vectors_at
from esans.negatives.clusters import below
from esans.negatives.config_scored import MochiConfig

# The user's share in a mix stays below it, so that the negative weighs more.
LARGEST_QUERY_MIX = 0.5


class Mochi(Sampler):
    """Unit-norm mixes of the hardest negatives with each other and with the user (Kalantidis, NeurIPS 2020; METHOD 6).

    Mixes are norm(a n_i + (1 - a) n_j), a ~ U(0, 1), i != j, and norm(b u + (1 - b) n), b ~ U(0, .5). They are constants:
    only the user that is compared with them gets a gradient, u . sg(h). The pool stays in the denominator beside them.
    """

    kind = "semantic"

    Config = MochiConfig

    config: MochiConfig

    def propose(self, batch: Batch, user_BD: Tensor, generator: Generator) -> Negatives:
        """Draw one pool."""
        return draw_pools(self.config, 1, self.num_items, batch, generator)

    def refine(self, negatives: Negatives, scores: Tensor, context: Context) -> list[Terms]:
        """The pool unless told otherwise, and the mixes: virtual terms, no items."""
        hardest_BH = masked(scores, negatives.valid).topk(self.config.hardest, dim=1)
        live_B = torch.isfinite(hardest_BH.values).sum(1)
        vectors_BHD = vectors_at(context.negative_vectors.detach(), hardest_BH.indices)
        # Scores of the constant items: the user's gradient is left.
        constant_BH = torch.einsum("bd,bhd->bh", context.user, vectors_BHD)
        pairs_BV = self._pairs(constant_BH, vectors_BHD, live_B, context.generator)
        queries_BV = self._query_mixes(constant_BH, live_B, context)
        valid_BV = torch.cat(
            [(live_B >= 2)[:, None].expand(-1, pairs_BV.shape[1]), (live_B >= 1)[:, None].expand(-1, queries_BV.shape[1])], dim=1
        )
        virtual = self.terms(f"{self.name}_virtual", torch.cat([pairs_BV, queries_BV], dim=1), valid_BV, context)
        return [*super().refine(negatives, scores, context), virtual] if self.config.real else [virtual]

    def _pairs(self, scores_BH: Tensor, vectors_BHD: Tensor, live_B: Tensor, generator: Generator) -> Tensor:
        """(B, num_pairs) scores; norms need only the parents' cosine."""
        shape = (len(scores_BH), self.config.num_pairs)
        # Live candidates come first, so that places below their number are live.
        size_BV = live_B.clamp_min(2)[:, None].expand(shape)
        first_BV = below(size_BV, generator)
        second_BV = (first_BV + 1 + below(size_BV - 1, generator)) % size_BV
        cosine_BV = (vectors_at(vectors_BHD, first_BV) * vectors_at(vectors_BHD, second_BV)).sum(-1)
        mix_BV = torch.rand(shape, generator=generator, device=scores_BH.device).to(scores_BH.dtype)
        return _unit_mix(scores_BH.gather(1, first_BV), scores_BH.gather(1, second_BV), mix_BV, cosine_BV)

    def _query_mixes(self, scores_BH: Tensor, live_B: Tensor, context: Context) -> Tensor:
        """(B, num_query_mixes) scores."""
        shape = (len(scores_BH), self.config.num_query_mixes)
        score_BV = scores_BH.gather(1, below(live_B.clamp_min(1)[:, None].expand(shape), context.generator))
        mix_BV = LARGEST_QUERY_MIX * torch.rand(shape, generator=context.generator, device=scores_BH.device).to(scores_BH.dtype)
        own_B1 = (context.user * context.user.detach()).sum(-1, keepdim=True)
        return _unit_mix(own_B1.expand(shape), score_BV, mix_BV, score_BV.detach())

    def draws_per_example(self, batch: Batch) -> int:
        """Mixes, and the pool where it is kept."""
        config = self.config
        return config.num_pairs + config.num_query_mixes + (config.candidates if config.real else 0)

    def encodings_per_example(self, batch: Batch) -> float:
        """All candidates; a shared pool is encoded once for the batch."""
        return encodings(self.config, 1, batch)


def _unit_mix(first_BV: Tensor, second_BV: Tensor, mix_BV: Tensor, cosine_BV: Tensor) -> Tensor:
    """Scores of m x + (1 - m) y at unit norm from those of x and y; the norm passes no gradient."""
    norm2_BV = 1 - 2 * mix_BV * (1 - mix_BV) * (1 - cosine_BV)
    return (mix_BV * first_BV + (1 - mix_BV) * second_BV) * norm2_BV.clamp_min(1e-6).rsqrt()
