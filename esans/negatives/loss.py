"""What a loss is, and the pooled sampled softmax: every group on one consistent scale (METHOD 4b)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from esans.negatives.base import Context, Sampler, Terms
from esans.negatives.config_loss import LossConfig
from esans.negatives.softmax import shifted_logits, softmax_loss
from esans.negatives.tables import Catalogue


class Loss(nn.Module, ABC):
    """Base of every loss over a positive and groups of negatives: logits first, so that diagnosis sees what the loss sees."""

    Config = LossConfig

    def __init__(self, config: LossConfig, catalogue: Catalogue) -> None:
        super().__init__()
        self.config = config
        self.num_items = catalogue.num_items

    @abstractmethod
    def logits(self, terms: Sequence[Terms], samplers: Sequence[Sampler], context: Context) -> list[Tensor]:
        """Logits (B, n) of each group of terms, -inf where masked."""

    @abstractmethod
    def forward(self, logits: Sequence[Tensor], context: Context) -> Tensor:
        """(B,) loss of each example from the logits of all groups. A row without any live term has a finite loss."""

    def observe(self, context: Context, loss_B: Tensor) -> None:
        """Learn from the losses of the step; most losses have nothing to learn."""


def scaled(scores: Tensor, temperature: Tensor, ratio: float = 1.0) -> Tensor:
    """Scores (B,) or (B, n) over `ratio` times the temperature, a scalar or (B,)."""
    per_row = temperature[:, None] if temperature.dim() == 1 and scores.dim() == 2 else temperature
    return scores / (per_row * ratio)


def pooled_correction(samplers: Sequence[Sampler], context: Context, ids: Tensor, full: bool = False) -> Tensor:
    """What a term of a global group subtracts: log sum_g E_g[count of j per example] - log(sum_g n_g / N) (METHOD 4b).

    Pooling makes two groups that may draw the same item count it once: corrected apart they would estimate 2 Z.

    Args:
        samplers: all global samplers of the loss, each with a closed-form `log_expected_count`.
        context: the step that was drawn for.
        ids: (n,) or (B, n) int64.
        full: leave the last term out, which estimates the full softmax itself.

    Returns:
        float32 like `ids`, or (B, n) where a group's counts depend on the example.

    Raises:
        ValueError: a sampler has no closed form.
    """
    counts = torch.broadcast_tensors(*[_log_count(sampler, context, ids) for sampler in samplers])
    total = torch.logsumexp(torch.stack(counts), dim=0)
    if full:
        return total
    draws = sum(sampler.draws_per_example(context.batch) for sampler in samplers)
    return total - math.log(draws / samplers[0].num_items)


def softmax_logits(
    terms: Sequence[Terms], samplers: Sequence[Sampler], context: Context, correction: Literal["pooled", "full", "none"] = "pooled"
) -> list[Tensor]:
    """Logits (B, n) of each group on one scale, -inf where masked: global terms pooled and corrected, semantic ones weighed (METHOD 4b).

    The temperature divides before the correction is subtracted.
    """
    pooled = [sampler for sampler in samplers if sampler.kind == "global"]
    logits = []
    for group in terms:
        shift: Tensor | float = 0.0
        if group.kind == "semantic":
            shift = group.log_weight
        elif correction != "none" and group.ids is not None:
            shift = -pooled_correction(pooled, context, group.ids, full=correction == "full")
        rate = 1 / (context.temperature * group.temperature_ratio)
        logits.append(shifted_logits(group.scores, rate, torch.as_tensor(shift, device=rate.device), group.valid))
    return logits


def _log_count(sampler: Sampler, context: Context, ids: Tensor) -> Tensor:
    counts = sampler.log_expected_count(context, ids)
    if counts is None:
        raise ValueError(f"global sampler {sampler.name!r} has no closed form for its expected counts")
    return counts


def sampled_softmax(positive_B: Tensor, logits: Sequence[Tensor]) -> Tensor:
    """-log softmax of the positive's logit against all terms: (B,). A row without any live term has loss 0, never NaN."""
    return softmax_loss(positive_B, *logits)


def negative_shares(terms: Sequence[Terms], logits: Sequence[Tensor]) -> dict[str, Tensor]:
    """Share of each group in the softmax mass of the negatives, mean over rows with live terms: the gradient share of METHOD 4b."""
    mass = torch.stack([torch.logsumexp(values, dim=1) for values in logits], dim=1)
    live = torch.isfinite(mass).any(1)
    shares = torch.where(live[:, None], torch.softmax(mass, dim=1), 0.0).sum(0) / live.sum().clamp_min(1)
    return {group.name: share for group, share in zip(terms, shares, strict=True)}
