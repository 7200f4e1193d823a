"""EDIS: virtual negatives by interpolation, as score mixing without d-dimensional work (METHOD 4).

Shape letters: B examples, C clusters, M real negatives of a cluster, V virtual negatives of a cluster, D dimensions.

Tensors of many short rows are kept with the examples last: sums over M of 5 or V of 14 then run along whole vectors of examples,
which takes a CPU a fifth of the time of small matrix products, and a GPU no more. Callers see (B, C, ...), as strides.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def subset_sizes(parents: int) -> list[int]:
    """Sizes of the random subsets that simple interpolation mixes: k, k times, for k = 2 .. parents (METHOD 4)."""
    return [size for size in range(2, parents + 1) for _ in range(size)]


def simple_weights(valid_BCM: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Mixing weights of simple interpolation: a random k-subset with Dirichlet(1_k) weights (METHOD 4).

    Masked parents get weight 0 and the row is renormalised; with fewer than two live parents the virtual is masked,
    because it would be the parent itself.

    Args:
        valid_BCM: which parents are live.
        generator: on the device of `valid_BCM`.

    Returns:
        weights (B, C, V, M) float32, rows summing to 1 where valid and 0 elsewhere; valid (B, C, V) bool.
    """
    rows, clusters, parents = valid_BCM.shape
    sizes = subset_sizes(parents)
    keys = torch.rand((parents, len(sizes), clusters, rows), generator=generator, device=valid_BCM.device)
    exponential_MVCB = torch.log1p(-keys).neg_()
    # What the k largest of iid exponentials have above the next one are again iid exponentials, whichever k they are: one
    # order gives both the subset and its masses. Normalised exponentials are Dirichlet(1, .., 1), over the live ones too.
    ranked = _rising(exponential_MVCB)
    nothing = torch.zeros_like(ranked[0][0])
    below_VCB = torch.stack([ranked[parents - 1 - size][place] if size < parents else nothing for place, size in enumerate(sizes)])
    mass_MVCB = exponential_MVCB.sub_(below_VCB).clamp_min_(0).mul_(valid_BCM.permute(2, 1, 0)[:, None])
    total_VCB = mass_MVCB.sum(0)
    # One parent that has it all is no mix.
    valid_VCB = mass_MVCB.amax(0) < total_VCB
    return (mass_MVCB.mul_(valid_VCB / total_VCB.clamp_min(1e-12))).permute(3, 2, 1, 0), valid_VCB.permute(2, 1, 0)


def _rising(values: Tensor) -> list[Tensor]:
    """The slices along the first dimension, sorted element by element: odd-even transposition, a tenth of the time of a sort."""
    rows = list(values.unbind(0))
    for turn in range(len(rows)):
        for place in range(turn % 2, len(rows) - 1, 2):
            rows[place], rows[place + 1] = torch.minimum(rows[place], rows[place + 1]), torch.maximum(rows[place], rows[place + 1])
    return rows


def gram_of(vectors_BCMD: Tensor) -> Tensor:
    """Inner products of the negatives of one cluster, (B, C, M, M), for a use that is symmetric in both: `mix_scores`.

    Where the gradient is symmetric, d tr(G^T E E^T) = 2 tr(G^T dE E^T): one side is differentiated and counts twice.
    """
    half = vectors_BCMD @ vectors_BCMD.detach().transpose(-1, -2)
    return 2 * half - half.detach()


def mix_scores(scores_BCM: Tensor, weights_BCVM: Tensor, gram_BCMM: Tensor | None = None) -> Tensor:
    """Scores of virtual negatives mixed inside each cluster, without forming their vectors (METHOD 4).

    Mixing is linear, so u.(W E) = W (E.u). With `gram_BCMM` = E E^T the virtual vectors are taken at unit norm.

    Args:
        scores_BCM: cosine of the user and each of M real negatives in C clusters.
        weights_BCVM: V mixtures per cluster; each row is non-negative, sums to 1, and is 0 at masked parents.
        gram_BCMM: inner products of the negatives of one cluster (`gram_of`); None keeps raw norms.

    Returns:
        (B, C, V) scores, same dtype.
    """
    weights_MVCB, scores_MCB = weights_BCVM.permute(3, 2, 1, 0), scores_BCM.permute(2, 1, 0).contiguous()
    mixed_VCB = (weights_MVCB * scores_MCB[:, None]).sum(0)
    if gram_BCMM is not None:
        gram = gram_BCMM.permute(2, 3, 1, 0).contiguous()
        # Parent by parent, so that nothing is larger than the weights.
        parts = [weights_VCB * (weights_MVCB * row_MCB[:, None]).sum(0) for weights_VCB, row_MCB in zip(weights_MVCB, gram, strict=True)]
        # A fully masked row has norm 0; any finite stand-in will do, since its term is masked.
        mixed_VCB = mixed_VCB * torch.stack(parts).sum(0).clamp_min(1e-6).rsqrt()
    return mixed_VCB.permute(2, 1, 0)


def hard_scores(scores_BH: Tensor, positive_B1: Tensor, mix_BH: Tensor, cosine_BH: Tensor | None = None) -> Tensor:
    """Scores of hard interpolation towards the positive: h~ = lambda e+ + (1 - lambda) h (METHOD 4).

    Args:
        scores_BH: cosine of the user and each of H hard negatives.
        positive_B1: cosine of the user and the positive; to keep gradients out of e+, take u . stop_gradient(e+),
            since detaching the score itself would also cut the user's gradient.
        mix_BH: lambda of each term, or a scalar tensor.
        cosine_BH: cosine of the positive and each hard negative: takes h~ at unit norm by
            ||h~||^2 = 1 - 2 lambda (1 - lambda)(1 - cos(e+, h)); None keeps raw norms.

    Returns:
        (B, H) scores.
    """
    mixed_BH = mix_BH * positive_B1 + (1 - mix_BH) * scores_BH
    if cosine_BH is None:
        return mixed_BH
    norm2_BH = 1 - 2 * mix_BH * (1 - mix_BH) * (1 - cosine_BH)
    return mixed_BH * norm2_BH.clamp_min(1e-6).rsqrt()
