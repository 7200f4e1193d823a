"""A temperature per user, by how well the user is fitted, and the loss that goes with it (Adap-tau, Chen et al. 2023; METHOD 6)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from esans.errors import ConfigError
from esans.negatives.base import Context, Sampler, Terms
from esans.negatives.config_loss import HIGHEST_TEMPERATURE, LOWEST_TEMPERATURE, AdaTauConfig, AdaTauLossConfig
from esans.negatives.loss import Loss, scaled, softmax_logits
from esans.negatives.ranks import of_all_ranks, ranks
from esans.negatives.tables import Catalogue
from esans.negatives.temperature import Temperature

# Mean cosine of positives above that of all pairs, assumed until it has been measured; the authors' value.
ASSUMED_GAP = 0.7
# A smaller gap is noise of untrained towers, or no gap at all.
SMALLEST_GAP = 0.01


class AdaTauLoss(Loss):
    """-w0 s+ + log sum_j exp(w_u s_j): the positive at the common temperature 1 / w0, the negatives at the user's 1 / w_u.

    Beside an `ada_tau` temperature it is the published loss; with another one both sides share that temperature, and it
    is the softmax without the positive in its denominator. Groups are pooled, corrected and weighed as in METHOD 4b.
    """

    Config = AdaTauLossConfig

    def logits(self, terms: Sequence[Terms], samplers: Sequence[Sampler], context: Context) -> list[Tensor]:
        """As those of the pooled sampled softmax: a uniform group alone is not corrected."""
        return softmax_logits(terms, samplers, context)

    def forward(self, logits: Sequence[Tensor], context: Context) -> Tensor:
        """(B,). A row without any live term has loss 0."""
        together = torch.cat(list(logits), dim=1)
        live_B = torch.isfinite(together).any(1)
        own = context.temperature if context.positive_temperature is None else context.positive_temperature
        positive_B = scaled(context.positive_score, own)
        # Masked rows are replaced before the logarithm: the gradient of a sum over nothing is NaN.
        negatives_B = torch.logsumexp(together.masked_fill(~live_B[:, None], 0.0), dim=1)
        return torch.where(live_B, negatives_B - positive_B, 0.0)


class AdaTau(Temperature):
    """1 / w_u with w_u = w0 exp(-W(max((L_u - mean L) / beta, -1/e))), W the Lambert function (METHOD 6).

    w0 = [ln(U N / 2) - ln D] / (mean cosine of positives - mean cosine of all pairs), U users, N items, D interactions.
    A user's L_u is the mean softmax loss of its examples at temperature 1, so that temperatures don't feed on themselves.
    Users that were not seen yet have the mean.

    All is gathered while an epoch (or `refresh_epochs`) is trained and taken over when the next one starts, on the device.
    The authors' code measures w0's cosines after each epoch in a pass of its own, over users with many interactions
    only; here they are means over the steps of the epoch, all cosines by the draws of global groups (uniform in the
    published form), and temperatures are kept within 0.01 .. 1 for w0 and above 0.01 for w_u.
    """

    Config = AdaTauConfig

    config: AdaTauConfig
    user_loss_U: Tensor
    loss_sum_U: Tensor
    loss_count_U: Tensor
    gap_sums: Tensor
    mean_loss: Tensor
    base_rate: Tensor
    last_mean: Tensor

    def __init__(self, config: AdaTauConfig, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        if not catalogue.num_users or not catalogue.num_interactions:
            raise ConfigError("train.temperature: ada_tau needs the numbers of users and interactions; run the shards stage.")
        users = catalogue.num_users
        self.log_sparsity = math.log(users * catalogue.num_items / 2) - math.log(catalogue.num_interactions)
        self.window = 0
        # Persistent: a resumed run goes on with the temperatures that it had.
        self.register_buffer("user_loss_U", torch.full((users,), torch.nan))
        self.register_buffer("loss_sum_U", torch.zeros(users))
        self.register_buffer("loss_count_U", torch.zeros(users))
        self.register_buffer("gap_sums", torch.zeros(4, dtype=torch.float64))
        self.register_buffer("mean_loss", torch.zeros(()))
        self.register_buffer("base_rate", self._rate(torch.tensor(ASSUMED_GAP)))
        self.register_buffer("last_mean", 1 / self.base_rate.clone())

    def forward(self, context: Context) -> Tensor:
        """(B,)."""
        window = int(context.epoch / self.config.refresh_epochs)
        if window != self.window:
            self._take_over()
            self.window = window
        loss_B = self.user_loss_U[context.batch.user_idx]
        above_B = torch.where(loss_B.isnan(), 0.0, (loss_B - self.mean_loss) / self.config.beta)
        rate_B = self.base_rate * torch.exp(-lambert_w(above_B))
        temperature_B = (1 / rate_B).clamp_min(LOWEST_TEMPERATURE)
        self.last_mean.copy_(temperature_B.mean())
        return temperature_B

    def of_positive(self) -> Tensor:
        """1 / w0."""
        # A copy: the buffer changes at the next epoch, perhaps before a backward pass looks at it.
        return 1 / self.base_rate

    def shown(self) -> Tensor:
        """Mean over the last batch."""
        return self.last_mean

    @torch.no_grad()
    def observe(self, context: Context, loss_B: Tensor) -> None:
        """Gather the losses at temperature 1 by user, and the two mean cosines."""
        scores = torch.cat([group.scores.detach().masked_fill(~group.valid, -torch.inf) for group in context.terms], dim=1).float()
        positive_B = context.positive_score.detach().float()
        plain_B = torch.logsumexp(scores, dim=1) - positive_B
        # Padding rows, and rows whose negatives are all masked, tell nothing.
        counts_B = ((context.batch.weight > 0) & torch.isfinite(plain_B)).float()
        plain_B = torch.where(counts_B > 0, plain_B, 0.0)
        users_B, plain_B, counts_B = (of_all_ranks(values) for values in (context.batch.user_idx, plain_B, counts_B))
        self.loss_sum_U.index_add_(0, users_B, plain_B)
        self.loss_count_U.index_add_(0, users_B, counts_B)
        sums = _cosine_sums(context)
        if ranks() > 1:
            dist.all_reduce(sums)
        # One step that is not finite, which the guard skips, would spoil the whole window.
        self.gap_sums.add_(torch.where(torch.isfinite(sums).all(), sums, 0.0))

    def _take_over(self) -> None:
        seen_U = self.loss_count_U > 0
        self.user_loss_U.copy_(torch.where(seen_U, self.loss_sum_U / self.loss_count_U.clamp_min(1), self.user_loss_U))
        self.mean_loss.copy_(self.user_loss_U.nanmean().nan_to_num())
        positive, positives, every, pairs = self.gap_sums
        gap = positive / positives.clamp_min(1) - every / pairs.clamp_min(1)
        self.base_rate.copy_(torch.where((positives > 0) & (pairs > 0), self._rate(gap), self.base_rate))
        for gathered in (self.loss_sum_U, self.loss_count_U, self.gap_sums):
            gathered.zero_()

    def _rate(self, gap: Tensor) -> Tensor:
        return (self.log_sparsity / gap.clamp_min(SMALLEST_GAP)).clamp(1 / HIGHEST_TEMPERATURE, 1 / LOWEST_TEMPERATURE).float()

    def get_extra_state(self) -> int:
        """The window that is being gathered: a resumed run must not take over too early."""
        return self.window

    def set_extra_state(self, state: int) -> None:
        """Put back what `get_extra_state` gave."""
        self.window = state


def lambert_w(x: Tensor) -> Tensor:
    """Principal branch of the Lambert function, w exp(w) = x, by Halley's iteration; x below -1/e counts as -1/e.

    Args:
        x: any shape, float; computed in float64, since the slope is infinite at -1/e.

    Returns:
        Like `x`.
    """
    value = x.double().clamp_min(-1 / math.e)
    root = (2 * (math.e * value + 1)).clamp_min(0).sqrt()
    near = -1 + root - root.square() / 3 + root**3 * 11 / 72
    log = torch.log1p(value)
    far = log * (1 - torch.log1p(log) / (2 + log))
    w = torch.where(value < -0.25, near, far)
    for _ in range(4):
        excess = w - value * torch.exp(-w)
        slope = (w + 1).clamp_min(1e-6)
        w = w - excess / (slope - (w + 2) * excess / (2 * slope))
    # At -1/e the slope is 0 and the series exact: its error is of the order of root^4.
    return torch.where(root < 1e-3, near, w).to(x.dtype)


def _cosine_sums(context: Context) -> Tensor:
    """Sum and number of the cosines of positives, and of those of all pairs by the terms of global groups: (4,) float64."""
    live_B = context.batch.weight > 0
    drawn = [group for group in context.terms if group.ids is not None and group.kind == "global"]
    parts = [(context.positive_score * live_B).sum(), live_B.sum()]
    masks = [group.valid & live_B[:, None] for group in drawn]
    parts.append(sum(((group.scores * mask).sum() for group, mask in zip(drawn, masks, strict=True)), torch.zeros_like(parts[0])))
    parts.append(sum((mask.sum() for mask in masks), torch.zeros_like(parts[1])))
    return torch.stack([part.detach().double() for part in parts])
