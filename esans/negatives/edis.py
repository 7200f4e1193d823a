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
    shape = (rows, clusters, len(sizes_V), parents)
    keys = torch.rand(shape, generator=generator, device=valid_BCM.device)
    place_BCVM = keys.argsort(-1).argsort(-1)
    live_BCVM = (place_BCVM < sizes_V[:, None]) & valid_BCM[:, :, None, :]
    # Normalised exponentials are Dirichlet(1, .., 1); renormalising over the live ones keeps them Dirichlet.
    mass = torch.empty(shape, device=valid_BCM.device).exponential_(generator=generator) * live_BCVM
    valid_BCV = live_BCVM.sum(-1) >= 2
    weights = mass / mass.sum(-1, keepdim=True).clamp_min(1e-12)
    return weights * valid_BCV[..., None], valid_BCV


def mix_scores(scores_BCM: Tensor, weights_BCVM: Tensor, gram_BCMM: Tensor | None = None) -> Tensor:
    """Scores of virtual negatives mixed inside each cluster, without forming their vectors (METHOD 4).

    Mixing is linear, so u.(W E) = W (E.u). With `gram_BCMM` = E E^T the virtual vectors are taken at unit norm.

    Args:
        scores_BCM: cosine of the user and each of M real negatives in C clusters.
        weights_BCVM: V mixtures per cluster; each row is non-negative, sums to 1, and is 0 at masked parents.
        gram_BCMM: inner products of the negatives of one cluster; None keeps raw norms.

    Returns:
        (B, C, V) scores, same dtype.
    """
    mixed_BCV = torch.einsum("bcvm,bcm->bcv", weights_BCVM, scores_BCM)
    if gram_BCMM is None:
        return mixed_BCV
    norm2_BCV = torch.einsum("bcvm,bcmn,bcvn->bcv", weights_BCVM, gram_BCMM, weights_BCVM)
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
