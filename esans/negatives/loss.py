"""The pooled sampled softmax: every group on one consistent scale (METHOD 4b)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from esans.negatives.base import Batch, Sampler, Terms


def pooled_correction(samplers: Sequence[Sampler], batch: Batch, ids: Tensor) -> Tensor:
    """What a term of a global group subtracts: log sum_g E_g[count of j per example] - log(sum_g n_g / N) (METHOD 4b).

    Pooling makes two groups that may draw the same item count it once: corrected apart they would estimate 2 Z.

    Args:
        samplers: all global samplers of the loss, each with a closed-form `log_expected_count`.
        batch: the batch that was drawn for.
        ids: (n,) or (B, n) int64.

    Returns:
        float32 like `ids`, or (B, n) where a group's counts depend on the example.
    """
    counts = torch.broadcast_tensors(*[_log_count(sampler, batch, ids) for sampler in samplers])
    draws = sum(sampler.draws_per_example(batch) for sampler in samplers)
    return torch.logsumexp(torch.stack(counts), dim=0) - math.log(draws / samplers[0].num_items)


def _log_count(sampler: Sampler, batch: Batch, ids: Tensor) -> Tensor:
    counts = sampler.log_expected_count(batch, ids)
    if counts is None:
        raise ValueError(f"global sampler {sampler.name!r} has no closed form for its expected counts")
    return counts


def logits_of(terms: Sequence[Terms], samplers: Sequence[Sampler], batch: Batch, temperature: Tensor, correct: bool = True) -> list[Tensor]:
    """Logits (B, n) of each group of terms: divided by the temperature before the correction is subtracted; -inf where masked."""
    pooled = [sampler for sampler in samplers if sampler.kind == "global"]
    scale = temperature if temperature.dim() == 0 else temperature[:, None]
    logits = []
    for group in terms:
        values = group.scores / scale
        if group.kind == "semantic":
            values = values + group.log_weight
        elif correct and group.ids is not None:
            values = values - pooled_correction(pooled, batch, group.ids)
        logits.append(values.masked_fill(~group.valid, -torch.inf))
    return logits


def sampled_softmax(positive_B: Tensor, logits: Sequence[Tensor], temperature: Tensor) -> Tensor:
    """-log softmax of the positive against all terms: (B,). A row without any live term has loss 0, never NaN.

    The positive is never corrected.
    """
    positive = positive_B / temperature
    return torch.logsumexp(torch.cat([positive[:, None], *logits], dim=1), dim=1) - positive


def negative_shares(terms: Sequence[Terms], logits: Sequence[Tensor]) -> dict[str, Tensor]:
    """Share of each group in the softmax mass of the negatives, mean over rows with live terms: the gradient share of METHOD 4b."""
    mass = torch.stack([torch.logsumexp(values, dim=1) for values in logits], dim=1)
    live = torch.isfinite(mass).any(1)
    shares = torch.where(live[:, None], torch.softmax(mass, dim=1), 0.0).sum(0) / live.sum().clamp_min(1)
    return {group.name: share for group, share in zip(terms, shares, strict=True)}
