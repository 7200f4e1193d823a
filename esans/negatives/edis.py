"""EDIS: virtual negatives by interpolation, as score mixing without d-dimensional work (METHOD 4).

Shape letters: B examples, C clusters, M real negatives of a cluster, V virtual negatives of a cluster, D dimensions.
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
    sizes_V = torch.tensor(subset_sizes(parents), device=valid_BCM.device)
    keys = torch.rand((rows, clusters, len(sizes_V), parents), generator=generator, device=valid_BCM.device)
    exponential = torch.log1p(-keys).neg_()
    # What the k largest of iid exponentials have above the next one are again iid exponentials, whichever k they are: one
    # sort gives both the subset and its masses. Normalised exponentials are Dirichlet(1, .., 1), over the live ones too.
    next_V1 = (parents - 1 - sizes_V).clamp_min(0)[:, None].expand(rows, clusters, -1, 1)
    below = exponential.sort(-1).values.gather(-1, next_V1) * (sizes_V < parents)[:, None]
    mass = exponential.sub_(below).clamp_min_(0).mul_(valid_BCM[:, :, None, :])
    valid_BCV = (mass > 0).sum(-1) >= 2
    return mass * (valid_BCV / mass.sum(-1).clamp_min(1e-12))[..., None], valid_BCV


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
    mixed_BCV = torch.einsum("bcvm,bcm->bcv", weights_BCVM, scores_BCM)
    if gram_BCMM is None:
        return mixed_BCV
    norm2_BCV = (weights_BCVM @ gram_BCMM * weights_BCVM).sum(-1)
    # A fully masked row has norm 0; any finite stand-in will do, since its term is masked.
    return mixed_BCV * norm2_BCV.clamp_min(1e-6).rsqrt()


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
