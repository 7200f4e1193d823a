"""What the corrections estimate: `full` the full softmax itself; the gradient of log Z-hat is biased, less with more draws (METHOD 4b)."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from esans.negatives.base import Terms
from esans.negatives.registry import build_samplers, resolve
from esans.negatives.tables import Catalogue
from tests.negatives.conftest import context_of, generator_of, loss_of, make_batch

ITEMS, DIM, TAU = 25, 4, 0.3
GROUPS: dict[str, dict[str, object]] = {
    "in_batch": {"sampler": "in_batch"},
    "shared": {"sampler": "uniform", "shared": True},
    "uniform": {"sampler": "uniform"},
    "popularity": {"sampler": "popularity"},
}
MIXES = [("in_batch", "shared"), ("uniform",), ("in_batch", "uniform"), ("popularity", "shared")]
SHARE_N = torch.arange(1, ITEMS + 1).double() / torch.arange(1, ITEMS + 1).sum()
VECTORS_ND = F.normalize(torch.randn(ITEMS, DIM, generator=generator_of(5), dtype=torch.float64), dim=-1)
USER_D = VECTORS_ND[3]
SCORES_N = VECTORS_ND @ USER_D


def samples(names: tuple[str, ...], draws: int, repeats: int, correction: str = "pooled") -> tuple[Tensor, Tensor, Tensor]:
    """Logits (R, n) of one user, the ids and the raw scores (R, n): `draws` of each group in each of R independent batches."""
    catalogue = Catalogue(ITEMS, SHARE_N.float())
    keys = [{**GROUPS[name], **({} if name == "in_batch" else {"num_negatives": draws})} for name in names]
    samplers, loss = build_samplers(resolve(keys), catalogue), loss_of(catalogue, correction=correction)
    everything, user_BD = torch.ones(1, draws, dtype=torch.bool).expand(draws, -1), USER_D.float().expand(draws, -1)
    logits, drawn = [], []
    random = generator_of(17)
    for _ in range(repeats):
        # The positives of a batch are drawn by their share, as the examples of an epoch are.
        batch = make_batch(torch.multinomial(SHARE_N, draws, replacement=True, generator=random).tolist())
        ids = [sampler.propose(batch, user_BD, random).ids for sampler in samplers]
        terms = [
            Terms(sampler.name, SCORES_N[each].expand(draws, -1), everything, each) for sampler, each in zip(samplers, ids, strict=True)
        ]
        context = context_of(batch, user_BD, temperature=torch.tensor(TAU, dtype=torch.float64))
        logits.append(torch.cat(loss.logits(terms, samplers, context), 1)[0])
        drawn.append(torch.cat([each if each.dim() == 1 else each[0] for each in ids]))
    ids_Rn = torch.stack(drawn)
    return torch.stack(logits), ids_Rn, SCORES_N[ids_Rn]


def gradient_bias(names: tuple[str, ...], draws: int, repeats: int) -> tuple[Tensor, float]:
    """Mean gradient of log Z-hat to the user's vector less the exact one of log Z, (D,), and the standard error of its norm."""
    logits_Rn, ids_Rn, _ = samples(names, draws, repeats)
    # The correction has no gradient, so that of logsumexp(s / tau - c) is the softmax's mean of e / tau.
    found_RD = torch.einsum("rn,rnd->rd", torch.softmax(logits_Rn, 1), VECTORS_ND[ids_Rn]) / TAU
    exact_D = torch.softmax(SCORES_N / TAU, 0) @ VECTORS_ND / TAU
    return found_RD.mean(0) - exact_D, math.sqrt(float(found_RD.var(0).sum()) / repeats)


def test_the_closed_form_of_the_gradient_is_that_of_autograd() -> None:
    user = USER_D.clone().requires_grad_()
    ids = torch.tensor([1, 7, 7, 20])
    correction = torch.linspace(-1, 1, 4, dtype=torch.float64)
    torch.logsumexp(VECTORS_ND[ids] @ user / TAU - correction, 0).backward()
    closed = torch.softmax(SCORES_N[ids] / TAU - correction, 0) @ VECTORS_ND[ids] / TAU
    assert user.grad is not None
    assert torch.allclose(user.grad, closed)


@pytest.mark.parametrize("names", MIXES, ids="+".join)
def test_the_bias_of_the_gradient_of_the_log_shrinks_as_draws_grow(names: tuple[str, ...]) -> None:
    few, few_error = gradient_bias(names, 3, 900)
    many, many_error = gradient_bias(names, 24, 500)
    assert few.norm() > 5 * few_error, "at few draws the bias is there"
    # Eight times the draws leave about an eighth of it.
    assert many.norm() + 3 * many_error < 0.5 * few.norm()


@pytest.mark.parametrize("names", [*MIXES, ("in_batch",), tuple(GROUPS)], ids="+".join)
def test_the_full_correction_estimates_the_full_softmax_itself(names: tuple[str, ...]) -> None:
    logits_Rn, _, _ = samples(names, 8, 600, "full")
    estimates, exact = logits_Rn.exp().sum(1), (SCORES_N / TAU).exp().sum()
    error = estimates.std() / math.sqrt(len(estimates))
    assert (estimates.mean() - exact).abs() < 5 * error
    assert 5 * error < 0.2 * exact, "the test could not fail"


@pytest.mark.parametrize("names", MIXES, ids="+".join)
def test_without_a_correction_logits_are_scores_over_the_temperature(names: tuple[str, ...]) -> None:
    logits_Rn, _, scores_Rn = samples(names, 8, 5, "none")
    assert torch.equal(logits_Rn, scores_Rn / TAU)
