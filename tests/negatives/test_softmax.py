"""The fused passes over the scores against autograd of their formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from esans.negatives.softmax import shifted_logits, softmax_loss
from tests.negatives.conftest import generator_of

ROWS = 6


def drawn(seed: int, per_row: bool) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Leaves (positive, rate, scores of two groups), shifts, and masks; the last row has no live term."""
    random = generator_of(seed)
    scores = [torch.rand(ROWS, n, generator=random, dtype=torch.float64) * 2 - 1 for n in (7, 4)]
    positive, rate = (
        torch.rand(ROWS, generator=random, dtype=torch.float64),
        torch.rand(ROWS, generator=random, dtype=torch.float64) * 20 + 1,
    )
    leaves = [positive, rate if per_row else rate[0], *scores]
    shifts = [torch.randn(7, generator=random), torch.tensor(-0.5)]
    valid = [torch.rand(ROWS, n, generator=random) > 0.3 for n in (7, 4)]
    for mask in valid:
        mask[-1] = False
    return [leaf.requires_grad_() for leaf in leaves], shifts, valid


@given(seed=st.integers(0, 2**31), per_row=st.booleans())
@settings(deadline=None, max_examples=25)
def test_loss_and_gradients_equal_autograd_of_the_formula(seed: int, per_row: bool) -> None:
    leaves, shifts, valid = drawn(seed, per_row)
    positive, rate, *scores = leaves
    by_row = rate[:, None] if per_row else rate
    naive = [(s * by_row + shift).masked_fill(~mask, -torch.inf) for s, shift, mask in zip(scores, shifts, valid, strict=True)]
    fast = [shifted_logits(s, rate, shift, mask) for s, shift, mask in zip(scores, shifts, valid, strict=True)]
    expected = F.cross_entropy(torch.cat([positive[:, None] * 9, *naive], 1), torch.zeros(ROWS, dtype=torch.long), reduction="none")
    loss = softmax_loss(positive * 9, *fast)
    assert all(torch.equal(one.isinf(), ~mask) for one, mask in zip(fast, valid, strict=True))
    assert torch.allclose(loss, expected, atol=1e-6)
    assert loss[-1] == 0
    weight = torch.linspace(0.5, 2, ROWS)
    for got, wanted in zip(
        torch.autograd.grad((loss * weight).sum(), leaves), torch.autograd.grad((expected * weight).sum(), leaves), strict=True
    ):
        assert torch.allclose(got, wanted, atol=1e-6)


@pytest.mark.parametrize("gap", [50.0, 200.0, 1e4])
def test_a_positive_whose_chance_underflows_has_a_finite_loss(gap: float) -> None:
    loss = softmax_loss(torch.tensor([0.0]), torch.tensor([[gap, -torch.inf]]))
    assert loss.item() == pytest.approx(gap, rel=1e-6)


def test_half_precision_scores_make_float32_logits_and_an_infinite_correction_stays_masked() -> None:
    scores = torch.tensor([[0.5, 0.25]], dtype=torch.bfloat16).requires_grad_()
    logits = shifted_logits(scores, torch.tensor(10.0), torch.tensor([0.001, torch.inf]), torch.tensor([[True, False]]))
    assert logits.dtype == torch.float32
    assert logits.tolist() == [[pytest.approx(5.001), -torch.inf]]
    softmax_loss(torch.zeros(1), logits).sum().backward()
    assert scores.grad is not None
    assert scores.grad.dtype == torch.bfloat16
    assert torch.isfinite(scores.grad).all()
