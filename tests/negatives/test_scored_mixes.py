"""MixGCF and MoCHi by score mixing against the vectors themselves, values and gradients (METHOD 6)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from esans.negatives.base import Negatives, Terms
from esans.negatives.registry import build_samplers, resolve
from esans.negatives.tables import Catalogue
from tests.negatives.conftest import context_of, generator_of, make_batch

ROWS, DIM = 3, 5


def leaves(candidates: int, shared: bool) -> tuple[Tensor, Tensor, Tensor]:
    """User, positive and candidate vectors in float64, at unit norm."""
    shapes = [(ROWS, DIM), (ROWS, DIM), (candidates, DIM) if shared else (ROWS, candidates, DIM)]
    return tuple(
        normalize(torch.randn(*shape, generator=generator_of(seed)).double(), dim=-1).requires_grad_() for seed, shape in enumerate(shapes)
    )  # type: ignore[return-value]


def refined(group: dict[str, object], catalogue: Catalogue, user: Tensor, positive: Tensor, vectors: Tensor, valid: Tensor) -> list[Terms]:
    drawing = build_samplers(resolve([group]), catalogue)[0]
    shared = vectors.dim() == 2
    candidates = vectors.shape[-2]
    ids = torch.arange(1, candidates + 1) if shared else torch.arange(1, candidates + 1).expand(ROWS, -1)
    scores = user @ vectors.T if shared else (vectors * user[:, None]).sum(-1)
    context = context_of(make_batch([0] * ROWS), user, positive, negative_vectors=vectors, generator=generator_of(7))
    return drawing.refine(Negatives(ids, valid), scores, context)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("unit_norm", [False, True])
def test_mixgcf_is_the_hardest_explicit_mix(catalogue: Catalogue, unit_norm: bool, shared: bool) -> None:
    # Towers put vectors at unit norm: gradients are compared before that, where the closed-form norm must agree.
    parts = leaves(8, shared)
    user, positive, vectors = (normalize(part, dim=-1) for part in parts)
    valid = torch.ones(ROWS, 8, dtype=torch.bool)
    valid[0, :3], valid[1, 4:] = False, False
    group: dict[str, object] = {"sampler": "mixgcf", "candidates": 4, "num_negatives": 2, "unit_norm": unit_norm}
    group["pool"] = "shared" if shared else "example"
    (terms,) = refined(group, catalogue, user, positive, vectors, valid)
    share = torch.rand(ROWS, 8, generator=generator_of(7)).double()[..., None]
    mixes = share * positive[:, None] + (1 - share) * vectors
    naive = ((normalize(mixes, dim=-1) if unit_norm else mixes) * user[:, None]).sum(-1).masked_fill(~valid, -9)
    wanted = torch.stack([naive[:, :4].max(1).values, naive[:, 4:].max(1).values], dim=1)
    live = torch.tensor([[True, True], [True, False], [True, True]])
    assert torch.equal(terms.valid, live)
    assert terms.ids is None
    assert torch.allclose(terms.scores[live], wanted[live])
    own = torch.autograd.grad(terms.scores[live].sum(), parts, retain_graph=True)
    explicit = torch.autograd.grad(wanted[live].sum(), parts)
    assert all(torch.allclose(one, other) for one, other in zip(own, explicit, strict=True))
    assert own[1].abs().sum() > 0


def test_mixgcf_by_hand(catalogue: Catalogue) -> None:
    """u.e+ = .8 and u.e = (.6, 0): a mix scores .8 a + (1 - a) times that."""
    user = torch.tensor([[1.0, 0.0]]).expand(ROWS, -1)
    positive = torch.tensor([[0.8, 0.6]]).expand(ROWS, -1)
    vectors = torch.tensor([[0.6, 0.8], [0.0, 1.0]])
    group: dict[str, object] = {"sampler": "mixgcf", "candidates": 2, "num_negatives": 1, "pool": "shared"}
    (terms,) = refined(group, catalogue, user, positive, vectors, torch.ones(ROWS, 2, dtype=torch.bool))
    for row, (first, second) in enumerate(torch.rand(ROWS, 2, generator=generator_of(7)).tolist()):
        assert terms.scores[row, 0].item() == pytest.approx(max(0.8 * first + 0.6 * (1 - first), 0.8 * second), abs=1e-6)


@pytest.mark.parametrize("shared", [False, True])
def test_mochi_mixes_are_constants_of_unit_norm(catalogue: Catalogue, shared: bool) -> None:
    """Each score is u.h of a mix of two hardest, or of the user and one; dL/du is h itself, so that h can be looked at."""
    user, positive, vectors = leaves(8, shared)
    valid = torch.ones(ROWS, 8, dtype=torch.bool)
    valid[0, 2] = False
    group: dict[str, object] = {"sampler": "mochi", "candidates": 8, "hardest": 3, "num_pairs": 6, "num_query_mixes": 5}
    group["pool"] = "shared" if shared else "example"
    real, virtual = refined(group, catalogue, user, positive, vectors, valid)
    assert real.scores.shape == (ROWS, 8)
    assert virtual.scores.shape == (ROWS, 11)
    assert virtual.valid.all()
    assert virtual.ids is None
    table = vectors.detach().expand(ROWS, 8, DIM)
    scores = (table * user.detach()[:, None]).sum(-1).masked_fill(~valid, -9)
    used = set()
    for place in range(11):
        grads = torch.autograd.grad(virtual.scores[:, place].sum(), [user, vectors], retain_graph=True, allow_unused=True)
        assert grads[1] is None, "mixes pass no gradient to items"
        mix_BD = grads[0]
        assert torch.allclose(mix_BD.norm(dim=1), torch.ones(ROWS).double())
        assert torch.allclose(virtual.scores[:, place], (user * mix_BD).sum(1))
        for row in range(ROWS):
            hardest = scores[row].argsort(descending=True)[:3].tolist()
            parents = [table[row, item] for item in hardest]
            if place < 6:
                pairs = [(one, other) for one in range(3) for other in range(one)]
                found = [pair for pair in pairs if _between(mix_BD[row], parents[pair[0]], parents[pair[1]], 1.0)]
                used |= {(row, *pair) for pair in found}
            else:
                found = [(item, item) for item in range(3) if _between(mix_BD[row], user.detach()[row], parents[item], 0.5)]
            assert found, (row, place)
    assert len(used) > ROWS, "different pairs are drawn"


def _between(mix: Tensor, first: Tensor, second: Tensor, largest: float) -> bool:
    """Whether `mix` points along a first + (1 - a) second for some a in [0, largest]."""
    weights = torch.linalg.lstsq(torch.stack([first, second], dim=1), mix[:, None]).solution[:, 0]
    share = weights[0] / weights.sum()
    rebuilt = torch.stack([first, second], dim=1) @ weights
    return torch.allclose(rebuilt, mix, atol=1e-8) and bool((weights >= 0).all()) and bool(share <= largest)


def test_mochi_without_the_pool_and_with_few_live(catalogue: Catalogue) -> None:
    user, positive, vectors = leaves(4, False)
    valid = torch.tensor([[False] * 4, [False, False, True, False], [True, False, True, False]])
    group: dict[str, object] = {"sampler": "mochi", "candidates": 4, "hardest": 4, "num_pairs": 9, "num_query_mixes": 2, "real": False}
    (virtual,) = refined(group, catalogue, user, positive, vectors, valid)
    assert virtual.valid.sum(1).tolist() == [0, 2, 11]
    assert torch.isfinite(virtual.scores).all()
    # The only live candidate of the second row is in both of its mixes with the user.
    gradient = torch.autograd.grad(virtual.scores[1, 9:].sum(), user, retain_graph=True)[0][1]
    weights = torch.linalg.lstsq(torch.stack([user[1].detach(), vectors[1, 2].detach()], dim=1), gradient[:, None])
    assert weights.solution.min() > 0
    pair = torch.autograd.grad(virtual.scores[2, 0], user)[0][2]
    assert _between(pair, vectors[2, 0].detach(), vectors[2, 2].detach(), 1.0)
