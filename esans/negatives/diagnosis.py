"""What the negatives of a step are worth and what they cost: scalars on the device, computed only in steps that are looked at.

Shape letters: B examples, n terms of a group, T later positives, V users with later positives, N items.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from esans.negatives.base import Batch, Context, Sampler, Terms
from esans.negatives.loss import negative_shares

QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9}

# Terms that are sorted for quantiles: their standard error is then below 0.2 % of the terms.
_MOST_SORTED = 65_536
# Prime, so that places spread over rows and columns alike and none comes twice.
_SPREAD = 2_654_435_761
_MOST_PAIRED = 512


@dataclass
class Later:
    """Positives of users after the training period, from the validation split: measured, never trained on."""

    users_V: Tensor
    """int64, ascending."""
    items_VT: Tensor
    """int32, item_idx padded with -1."""
    left_out: int = 0
    """Positives beyond T of one user, which are not looked for."""

    def to(self, device: torch.device | str) -> Later:
        """The same table on a device."""
        return Later(self.users_V.to(device), self.items_VT.to(device), self.left_out)

    def unmasked(self, batch: Batch) -> Tensor:
        """Later positives of each example's user that masks leave to be drawn: (B, T) int64, ascending, padded with -1."""
        place_B = torch.searchsorted(self.users_V, batch.user_idx).clamp_max(len(self.users_V) - 1)
        items_BT = self.items_VT[place_B].long()
        there_BT = (self.users_V[place_B] == batch.user_idx)[:, None] & (items_BT >= 0) & ~batch.knows(items_BT.clamp_min(0))
        return torch.where(there_BT, items_BT, -1).sort(1).values


@torch.no_grad()
def diagnose(
    terms: Sequence[Terms], logits: Sequence[Tensor], samplers: Sequence[Sampler], context: Context, later: Later | None = None
) -> dict[str, Tensor]:
    """Figures of one step (docs/diagnosis.md); nothing here draws random numbers or waits for the device.

    Args:
        terms: of all groups, as the loss saw them; groups of one name are told apart by a number.
        logits: (B, n) of each group, -inf where masked.
        samplers: those that took part.
        context: the step.
        later: what the users choose next; without it no draw is called a false negative.

    Returns:
        float32 scalars by name, NaN where there was nothing to measure. Rows of weight 0 are left out.
    """
    batch, groups = context.batch, _told_apart(terms)
    real_B = batch.weight > 0
    live = [group.valid & real_B[:, None] for group in groups]
    masked = [values.detach().float().masked_fill(~alive, -torch.inf) for values, alive in zip(logits, live, strict=True)]
    shares, chances = negative_shares(groups, masked), _chances(masked)
    figures = {f"share_{name}": share for name, share in shares.items()}
    figures["effective_negatives"] = _mean(_sum_rows([torch.special.entr(chance) for chance in chances]).exp(), _any_live(live))
    figures |= _hardness(groups, live, context)
    for group, alive in zip(groups, live, strict=True):
        if group.ids is not None:
            figures[f"duplicates_per_row_{group.name}"] = _duplicates(group.ids, alive)
    if later is not None:
        figures |= _false_negatives(groups, live, chances, shares, batch, later.unmasked(batch), samplers[0].num_items)
    figures["alignment"] = _mean((context.user - context.positive_vector).float().square().sum(-1), real_B)
    figures["uniformity_users"] = _uniformity(context.user, batch.user_idx, real_B)
    figures["uniformity_items"] = _uniformity(context.positive_vector, batch.target, real_B)
    cost = sum(sampler.encodings_per_example(batch) for sampler in samplers)
    figures["encodings_per_example"] = torch.full((), float(cost), device=real_B.device)
    return figures


def _told_apart(terms: Sequence[Terms]) -> list[Terms]:
    met: Counter[str] = Counter()
    named = []
    for group in terms:
        met[group.name] += 1
        named.append(group if met[group.name] == 1 else replace(group, name=f"{group.name}_{met[group.name]}"))
    return named


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean over the marked places, NaN without any."""
    return torch.where(where, values, 0.0).sum() / where.sum()


def _sum_rows(parts: Sequence[Tensor]) -> Tensor:
    """(B,) sums over the terms of all groups, (B, n) each."""
    return torch.stack([part.sum(1) for part in parts]).sum(0)


def _any_live(live: Sequence[Tensor]) -> Tensor:
    return torch.stack([alive.any(1) for alive in live]).any(0)


def _chances(logits: Sequence[Tensor]) -> list[Tensor]:
    """Softmax over the negatives of all groups, (B, n) each; 0 in rows without a live term."""
    mass_B = torch.stack([torch.logsumexp(values, dim=1) for values in logits]).logsumexp(0)
    mass_B1 = torch.where(torch.isfinite(mass_B), mass_B, 0.0)[:, None]
    return [(values - mass_B1).exp() for values in logits]


def _hardness(groups: Sequence[Terms], live: Sequence[Tensor], context: Context) -> dict[str, Tensor]:
    """Quantiles of s_n - s+ by group, and its mean over the live terms of all groups."""
    figures, total, count = {}, [], []
    for group, alive in zip(groups, live, strict=True):
        gap_Bn = (group.scores - context.positive_score[:, None]).float()
        for name, value in zip(QUANTILES, quantiles(gap_Bn, alive, list(QUANTILES.values())), strict=True):
            figures[f"hardness_{group.name}_{name}"] = value
        total.append(torch.where(alive, gap_Bn, 0.0).sum())
        count.append(alive.sum())
    figures["hardness"] = torch.stack(total).sum() / torch.stack(count).sum()
    return figures


def quantiles(values: Tensor, live: Tensor, at: Sequence[float]) -> list[Tensor]:
    """Quantiles of the live values, between neighbours as torch.quantile has them; NaN without a live value.

    Of more than 65,536 values a fixed part is looked at, spread over all rows and columns.
    """
    values, live = values.flatten(), live.flatten()
    if len(values) > _MOST_SORTED:
        places = torch.arange(_MOST_SORTED, device=values.device) * _SPREAD % len(values)
        values, live = values[places], live[places]
    ranked = values.masked_fill(~live, torch.inf).sort().values
    count, found = live.sum(), []
    for share in at:
        place = share * (count - 1).clamp_min(0)
        value = torch.lerp(ranked[place.floor().long()], ranked[place.ceil().long()], place - place.floor())
        found.append(torch.where(count > 0, value, torch.nan))
    return found


def _duplicates(ids: Tensor, live_Bn: Tensor) -> Tensor:
    """Share of the live terms whose item the group had in the row before.

    A shared draw is masked in a row by its item or in all rows by its place, so that repeats are found once for all rows.
    """
    if ids.dim() == 1:
        drawn_n = live_Bn.sum(0)
        ranked, order = torch.where(drawn_n > 0, ids, -1).sort(stable=True)
        return (drawn_n[order[1:]] * (ranked[1:] == ranked[:-1])).sum() / drawn_n.sum()
    ranked = torch.where(live_Bn, ids, -1).sort(1).values
    return ((ranked[:, 1:] == ranked[:, :-1]) & (ranked[:, 1:] >= 0)).sum() / live_Bn.sum()


def _false_negatives(
    groups: Sequence[Terms],
    live: Sequence[Tensor],
    chances: Sequence[Tensor],
    shares: dict[str, Tensor],
    batch: Batch,
    later_BT: Tensor,
    num_items: int,
) -> dict[str, Tensor]:
    """How often live draws are later positives, over the rows that have some to draw."""
    looked_B = (later_BT >= 0).any(1)
    # A row that looks for later positives instead of known ones.
    probe = replace(batch, known=later_BT, target=torch.full_like(batch.target, -1))
    by_chance_B = (later_BT >= 0).sum(1) / _drawable(batch, num_items)
    figures, rates, weights, masses = {}, [], [], []
    for group, alive, chance in zip(groups, live, chances, strict=True):
        if group.ids is None:
            continue
        counted_Bn = alive & looked_B[:, None]
        false_Bn = counted_Bn & probe.knows(group.ids)
        draws_B = counted_Bn.sum(1)
        rate = false_Bn.sum() / draws_B.sum()
        figures[f"false_negative_rate_{group.name}"] = rate
        figures[f"false_negative_lift_{group.name}"] = rate / ((by_chance_B * draws_B).sum() / draws_B.sum())
        rates.append(rate)
        weights.append(shares[group.name])
        masses.append(torch.where(false_Bn, chance, 0.0))
    if rates:
        rate_G = torch.stack(rates)
        figures["false_negative_rate"] = _weighted(rate_G.nan_to_num(), torch.where(rate_G.isfinite(), torch.stack(weights), 0.0))
        figures["false_negative_mass"] = _mean(_sum_rows(masses), looked_B & _any_live(live))
    return figures


def _weighted(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum()


def _drawable(batch: Batch, num_items: int) -> Tensor:
    """(B,) items that masks leave of the catalogue."""
    known_B = (batch.known >= 0).sum(1)
    return num_items - known_B - (batch.known != batch.target[:, None]).all(1).long()


def _uniformity(vectors_BD: Tensor, ids_B: Tensor, real_B: Tensor) -> Tensor:
    """Log mean exp(-2 d^2) over pairs of distinct ids among the first 512 rows (Wang and Isola 2020); lower is more even."""
    vectors, ids, real = vectors_BD[:_MOST_PAIRED].float(), ids_B[:_MOST_PAIRED], real_B[:_MOST_PAIRED]
    square = 2 - 2 * (vectors @ vectors.T)
    pair = (ids[:, None] != ids[None, :]) & real[:, None] & real[None, :]
    return _mean((-2 * square).exp(), pair).log()
