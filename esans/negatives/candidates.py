"""What samplers that choose among scored candidates have in common: the pool, the pick, and draws without replacement.

Shape letters: B examples, P pools of one example, M candidates of a pool, n = P M candidates of one example, k picks.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from esans.negatives.base import Batch, Context, Negatives
from esans.negatives.clusters import first_of_each
from esans.negatives.config_scored import CandidatesConfig


def draw_pools(config: CandidatesConfig, pools: int, num_items: int, batch: Batch, generator: Generator) -> Negatives:
    """Draw `pools` pools of candidates uniformly over the catalogue, per example or for the whole batch.

    Args:
        config: size of a pool and who shares it.
        pools: P.
        num_items: N.
        batch: B examples.
        generator: on the device of the batch.

    Returns:
        Negatives with ids (B, n), or (n,) where shared, pool after pool. Masked: known ones and repeats within a pool.
    """
    total = pools * config.candidates
    shape = (total,) if config.pool == "shared" else (len(batch), total)
    ids = torch.randint(num_items, shape, generator=generator, device=batch.target.device)
    fresh = first_of_each(ids.view(-1, config.candidates)).view(shape)
    return Negatives(ids, fresh & ~batch.knows(ids))


def encodings(config: CandidatesConfig, pools: int, batch: Batch) -> float:
    """Item vectors per example that the pools need: all candidates are encoded, shared ones once for the batch."""
    return pools * config.candidates / (len(batch) if config.pool == "shared" else 1)


def pool_cosines(vectors: Tensor, other_BD: Tensor) -> Tensor:
    """Cosines (B, n) of one unit vector per example and the candidates' unit vectors, (B, n, D) or shared (n, D)."""
    if vectors.dim() == 2:
        return other_BD @ vectors.T
    return torch.einsum("bd,bnd->bn", other_BD, vectors)


def vectors_at(vectors: Tensor, place_Bk: Tensor) -> Tensor:
    """Vectors (B, k, D) of candidates by place, from (B, n, D) or shared (n, D)."""
    if vectors.dim() == 2:
        return vectors[place_Bk]
    return vectors.gather(1, place_Bk[..., None].expand(-1, -1, vectors.shape[-1]))


def masked(values: Tensor, valid: Tensor) -> Tensor:
    """Values without gradient, -inf where masked: a choice passes no gradient, and a masked candidate never wins it."""
    return values.detach().float().masked_fill(~valid, -torch.inf)


def best_of_each_pool(values_Bn: Tensor, size: int) -> Tensor:
    """Place among n of the highest value in each pool of `size`: (B, P) int64."""
    return flat_place(values_Bn.view(len(values_Bn), -1, size).argmax(-1), size)


def flat_place(place_BP: Tensor, size: int) -> Tensor:
    """Places within each pool of `size` candidates -> places among all n."""
    return place_BP + size * torch.arange(place_BP.shape[1], device=place_BP.device)


def gumbel_top_k(log_weight_Bn: Tensor, count: int, generator: Generator) -> Tensor:
    """Draw `count` places per row without replacement, in proportion to exp(log_weight): (B, count) int64.

    -inf is drawn only after everything else, so that the caller must mask it.
    """
    # The floor keeps -inf weights from meeting an infinite key.
    exponential = torch.empty_like(log_weight_Bn).exponential_(generator=generator).clamp_min(1e-30)
    return (log_weight_Bn - exponential.log()).topk(count, dim=1).indices


def picked(negatives: Negatives, scores_Bn: Tensor, place_Bk: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
    """Scores with gradient, validity and ids of chosen candidates, each (B, k); repeats of an item in a row are masked."""
    ids_Bk = negatives.ids.expand(len(context.batch), -1).gather(1, place_Bk)
    return scores_Bn.gather(1, place_Bk), negatives.valid.gather(1, place_Bk) & first_of_each(ids_Bk), ids_Bk
