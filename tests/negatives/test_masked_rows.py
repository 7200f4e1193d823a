"""Masks hold for every sampler there is: no false negative is live, and a row without any live negative gives no NaN (METHOD 3 and 4b)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from esans.columns import EASY_IDS, EXPOSED, HARD_IDS, PADDING
from esans.negatives.base import Batch
from esans.negatives.groups import NegativeGroups
from esans.negatives.registry import LOSSES, build_samplers, known_samplers, resolve
from esans.negatives.tables import Catalogue
from tests.negatives.conftest import context_of, generator_of, loss_of, make_batch, make_clusters, temperature_of

DIM, STEPS = 8, 3
SHAPES = {EASY_IDS: (3, 2, 4), HARD_IDS: (3, 5), EXPOSED: (6,)}
# Small pools; what is not named here needs no key.
KEYS: dict[str, dict[str, object]] = {
    "category": {"column": "genre"},
    "cross_batch": {"capacity": 24},
    "fairneg": {"candidates": 12, "num_negatives": 4, "update_every": 1},
    "mochi": {"candidates": 12, "hardest": 4},
    "simans": {"candidates": 12, "num_negatives": 4},
    "dns": {"candidates": 6},
    "mixgcf": {"candidates": 6},
    "ahns": {"candidates": 6},
}
ALONE = known_samplers()
MIXES = [(name,) for name in ALONE] + [("in_batch", name) for name in ALONE if name != "in_batch"]


def catalogue_of() -> Catalogue:
    """27 items in five primaries, one of which has no hard pool; two items without a cluster."""
    tables = make_clusters([[3, 2], [6], [2, 3], [4, 1], [4]], unassigned=2)
    num_items = len(tables.item_cell_N)
    share = torch.arange(1, num_items + 1).float()
    side = {"genre": torch.arange(num_items) % 3}
    return Catalogue(num_items, share / share.sum(), tables, num_users=8, num_interactions=50, columns=SHAPES, dim=DIM, side=side)


def batch_of(targets: list[int], known: list[list[int]], catalogue: Catalogue, seed: int) -> Batch:
    """A batch whose joined columns hold any items at all, known ones and padding among them."""
    batch = make_batch(targets, known, width=catalogue.num_items)
    for column, shape in SHAPES.items():
        width = int(torch.tensor(shape).prod())
        batch.extra[column] = torch.randint(PADDING, catalogue.num_items, (len(batch), width), generator=generator_of(seed))
    return batch


def keys_of(names: Sequence[str]) -> list[dict[str, object]]:
    return [{"sampler": name, **KEYS.get(name, {})} for name in names]


@pytest.mark.parametrize("known_rows", ["one", "all"])
@pytest.mark.parametrize("loss", LOSSES.known())
@pytest.mark.parametrize("names", MIXES, ids="+".join)
def test_a_row_without_any_live_negative_has_a_finite_loss_and_gradients_whatever_the_groups(
    names: tuple[str, ...], loss: str, known_rows: str
) -> None:
    catalogue = catalogue_of()
    every = list(range(catalogue.num_items))
    temperature = temperature_of(catalogue, "ada_tau" if loss == "ada_tau" else "learned")
    groups = NegativeGroups(build_samplers(resolve(keys_of(names)), catalogue), loss_of(catalogue, loss), temperature)
    table = torch.randn(catalogue.num_items, DIM, generator=generator_of(1)).requires_grad_()
    towers = torch.randn(4, DIM, generator=generator_of(2)).requires_grad_()

    def encode(ids: Sequence[Tensor]) -> list[Tensor]:
        return [F.normalize(table, dim=-1)[part] for part in ids]

    known = [every] * 4 if known_rows == "all" else [every, [0, 4], [], [20]]
    for step in range(STEPS):
        targets = torch.randint(catalogue.num_items, (4,), generator=generator_of(step)).tolist()
        table.grad = towers.grad = None
        batch = batch_of(targets, known, catalogue, step)
        result = groups(batch, F.normalize(towers, dim=-1), encode, generator_of(step), float(step), diagnose=step == STEPS - 1)
        result.loss_B.mean().backward()
        assert torch.isfinite(result.loss_B).all()
        for leaf in (table, towers, *groups.parameters()):
            assert leaf.grad is None or torch.isfinite(leaf.grad).all()
        if loss == "sampled_softmax":
            assert result.loss_B[0].item() == pytest.approx(0, abs=1e-6)
            assert towers.grad is None or towers.grad[0].abs().max() == 0


@pytest.mark.parametrize("name", ALONE)
def test_the_positive_and_known_positives_are_never_live_negatives_of_any_sampler(name: str) -> None:
    catalogue = catalogue_of()
    (sampler,) = build_samplers(resolve(keys_of([name])), catalogue)
    vectors = F.normalize(torch.randn(catalogue.num_items, DIM, generator=generator_of(3)), dim=-1)
    known = [[0, 1, 2, 7, 20], [13, 24], [], list(range(8, 18))] * 6
    seen = 0
    for step in range(STEPS):
        targets = torch.randint(catalogue.num_items, (len(known),), generator=generator_of(step)).tolist()
        batch, user = batch_of(targets, known, catalogue, step), vectors[torch.arange(len(known)) % catalogue.num_items]
        negatives = sampler.propose(batch, user, generator_of(step))
        drawn = vectors[negatives.ids] if negatives.vectors is None else negatives.vectors
        context = context_of(batch, user, vectors[batch.target], negative_vectors=drawn, temperature=torch.tensor(0.1))
        context.negatives = negatives
        scores = user @ drawn.T if negatives.ids.dim() == 1 else torch.einsum("bd,b...d->b...", user, drawn)
        context.terms = sampler.refine(negatives, scores, context)
        # Both what was drawn and what became a term of the loss.
        found = [(negatives.ids, negatives.valid), *((terms.ids, terms.valid) for terms in context.terms if terms.ids is not None)]
        for ids, valid in found:
            flat = ids.expand(len(batch), -1) if ids.dim() == 1 else ids.flatten(1)
            forbidden = (flat[:, :, None] == batch.known[:, None, :]).any(-1) | (flat == batch.target[:, None])
            live = valid.flatten(1)
            assert not (live & forbidden).any()
            assert ((flat >= 0) & (flat < catalogue.num_items)).all(), "masked ids are legal as well"
            seen += int(live.sum())
        sampler.observe(context, torch.ones(len(batch)))
    assert seen > 0
