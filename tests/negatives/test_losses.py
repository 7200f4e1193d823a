"""Losses and temperatures against their formulas, computed independently on small numbers (METHOD 6)."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, lambertw
from torch import Tensor

from esans.errors import ConfigError
from esans.negatives.ada_tau import AdaTau, lambert_w
from esans.negatives.base import Context, Terms
from esans.negatives.groups import NegativeGroups
from esans.negatives.registry import LOSSES, TEMPERATURES, build_samplers, resolve
from esans.negatives.tables import Catalogue
from tests.negatives.conftest import context_of, generator_of, loss_of, make_batch, temperature_of

COSINES = torch.tensor([[0.3, -0.2, 0.1], [0.5, 0.4, -0.6]], dtype=torch.float64)
POSITIVES = torch.tensor([0.8, 0.2], dtype=torch.float64)


def catalogue_of(num_items: int = 11, num_users: int = 4, num_interactions: int = 5) -> Catalogue:
    return Catalogue(num_items, torch.full((num_items,), 1 / num_items), num_users=num_users, num_interactions=num_interactions)


def step_of(scores: Tensor, positive: Tensor, valid: Tensor | None = None, kind: str = "global", **rest: object) -> Context:
    """A step whose only group has given cosines."""
    ids = torch.zeros(scores.shape, dtype=torch.long) + 3
    live = torch.ones_like(scores, dtype=torch.bool) if valid is None else valid
    context = context_of(make_batch([0] * len(scores)), terms=[Terms("uniform", scores, live, ids, kind)], **rest)  # type: ignore[arg-type]
    context.positive_score = positive
    return context


def loss_at(name: str, context: Context, catalogue: Catalogue, **keys: object) -> Tensor:
    """The loss of a step with one uniform group of as many draws as its terms are wide."""
    draws = sum(group.scores.shape[1] for group in context.terms)
    samplers = build_samplers(resolve([{"sampler": "uniform", "num_negatives": draws}]), catalogue)
    loss = loss_of(catalogue, name, **keys)
    return loss(loss.logits(context.terms, samplers, context), context)


def test_gbce_equals_its_formula_with_numbers() -> None:
    # 3 draws of 11 items: a = 0.3; t = 0.2: beta = 0.3 (0.2 (1 - 1/0.3) + 1/0.3) = 0.86.
    loss = loss_at("gbce", step_of(COSINES, POSITIVES, temperature=torch.tensor(0.5, dtype=torch.float64)), catalogue_of())
    positive, negative = POSITIVES.numpy() / 0.5, COSINES.numpy() / 0.5
    expected = -0.86 * np.log(expit(positive)) - np.log(expit(-negative)).sum(1)
    assert loss.numpy() == pytest.approx(expected, abs=1e-7)
    # By hand for the first row: 0.86 * 0.183904 + 1.037488 + 0.513015 + 0.798139.
    assert loss[0].item() == pytest.approx(2.506800, abs=1e-5)


@pytest.mark.parametrize(("calibration", "beta"), [(0.0, 1.0), (1.0, 0.3), (0.5, 0.65)])
def test_calibration_runs_from_plain_cross_entropy_to_the_sampling_rate(calibration: float, beta: float) -> None:
    assert loss_of(catalogue_of(), "gbce", calibration=calibration).beta(3) == pytest.approx(beta)  # type: ignore[operator]


def test_calibration_keeps_its_digits_where_the_catalogue_is_large() -> None:
    catalogue = catalogue_of(num_items=20_000_001)
    assert loss_of(catalogue, "gbce").beta(1) == pytest.approx(1 - 0.2 * (1 - 1 / 2e7), abs=1e-15)  # type: ignore[operator]


def test_gbce_counts_draws_before_masks_and_virtual_terms_not_at_all() -> None:
    valid = torch.tensor([[True, False, True], [False] * 3])
    context = step_of(COSINES, POSITIVES, valid)
    context.terms = [*context.terms, Terms("easy_virtual", COSINES, torch.zeros(2, 3, dtype=torch.bool), kind="semantic")]
    loss = loss_at("gbce", context, catalogue_of())
    expected = -0.86 * np.log(expit(POSITIVES.numpy())) - (np.log(expit(-COSINES.numpy())) * valid.numpy()).sum(1)
    assert loss.numpy() == pytest.approx(expected, abs=1e-7)


def test_the_adaptive_loss_equals_its_formula_with_numbers() -> None:
    # w0 = 4 at the positive, w_u = 5 and 2 at the negatives.
    context = step_of(COSINES, POSITIVES, temperature=torch.tensor([0.2, 0.5]).double(), positive_temperature=torch.tensor(0.25).double())
    loss = loss_at("ada_tau", context, catalogue_of())
    first = -4 * 0.8 + math.log(math.exp(1.5) + math.exp(-1.0) + math.exp(0.5))
    second = -4 * 0.2 + math.log(math.exp(1.0) + math.exp(0.8) + math.exp(-1.2))
    assert loss.tolist() == pytest.approx([first, second], abs=1e-6)


def test_the_adaptive_loss_shares_one_temperature_where_the_positive_has_none_of_its_own() -> None:
    loss = loss_at("ada_tau", step_of(COSINES, POSITIVES, temperature=torch.tensor(0.5).double()), catalogue_of())
    expected = torch.logsumexp(COSINES / 0.5, 1) - POSITIVES / 0.5
    assert torch.allclose(loss, expected, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES.known())
def test_no_loss_turns_a_row_without_live_terms_into_nan(name: str) -> None:
    scores, positive = COSINES.clone().requires_grad_(), POSITIVES.clone().requires_grad_()
    valid = torch.tensor([[False] * 3, [True, False, True]])
    loss = loss_at(name, step_of(scores, positive, valid), catalogue_of())
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    for leaf in (scores, positive):
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()
    assert (scores.grad[~valid] == 0).all()  # type: ignore[index]
    assert (scores.grad[valid] > 0).all()  # type: ignore[index]


@pytest.mark.parametrize("name", LOSSES.known())
def test_every_loss_pushes_a_negative_away_and_pulls_the_positive(name: str) -> None:
    scores, positive = COSINES.clone().requires_grad_(), POSITIVES.clone().requires_grad_()
    loss_at(name, step_of(scores, positive), catalogue_of()).sum().backward()
    assert (scores.grad > 0).all()  # type: ignore[operator]
    assert (positive.grad < 0).all()  # type: ignore[operator]


@given(st.floats(-1 / math.e + 1e-15, 1e6))
@settings(deadline=None)
def test_the_lambert_function_agrees_with_scipy(x: float) -> None:
    got = lambert_w(torch.tensor(x, dtype=torch.float64)).item()
    assert got == pytest.approx(lambertw(x).real, abs=1e-7, rel=1e-12)
    single = torch.tensor(x, dtype=torch.float32)
    assert lambert_w(single).item() == pytest.approx(lambertw(max(single.double().item(), -1 / math.e + 1e-16)).real, rel=1e-6, abs=1e-6)


def test_the_lambert_function_has_its_known_values_and_is_minus_one_where_it_ends() -> None:
    x = torch.tensor([-1 / math.e, -5.0, 0.0, math.e, 1.0], dtype=torch.float64)
    assert lambert_w(x).tolist() == pytest.approx([-1, -1, 0, 1, 0.5671432904097838], abs=1e-7)


def trained(temperature: AdaTau, epoch: float, users: list[int], cosines: Tensor, positive: Tensor, **rest: object) -> Tensor:
    """One step: the temperatures of its rows, and what it tells is gathered."""
    context = step_of(cosines, positive, **rest)  # type: ignore[arg-type]
    context.batch.user_idx = torch.tensor(users)
    context.epoch = epoch
    temperatures = temperature(context)
    temperature.observe(context, torch.zeros(len(users)))
    return temperatures


def adaptive(**keys: object) -> AdaTau:
    found = temperature_of(catalogue_of(), "ada_tau", **keys)
    assert isinstance(found, AdaTau)
    return found


def test_user_temperatures_equal_their_formula_with_numbers() -> None:
    temperature = adaptive(beta=2.0)
    # ln(U N / 2) - ln D = ln(4 * 11 / 2) - ln 5 = 1.4816; before anything is seen the gap counts as 0.7.
    base = math.log(22 / 5)
    first = trained(temperature, 0.0, [1, 2], COSINES, POSITIVES)
    assert first.tolist() == pytest.approx([0.7 / base] * 2)
    assert temperature.of_positive().item() == pytest.approx(0.7 / base)
    trained(temperature, 0.5, [1, 1], COSINES[[1, 0]], torch.tensor([0.4, 0.6]).double())
    second = trained(temperature, 1.0, [0, 1, 2, 3], COSINES[[0, 0, 0, 0]], POSITIVES[[0, 0, 0, 0]])

    log_sums = np.log(np.exp(COSINES.numpy()).sum(1))
    loss = {1: np.mean([log_sums[0] - 0.8, log_sums[1] - 0.4, log_sums[0] - 0.6]), 2: log_sums[1] - 0.2}
    gap = (0.8 + 0.2 + 0.4 + 0.6) / 4 - COSINES.mean().item()
    rate = base / gap
    mean = (loss[1] + loss[2]) / 2
    rates = {user: rate * math.exp(-lambertw(max((value - mean) / 2.0, -1 / math.e)).real) for user, value in loss.items()}
    # Users that were not seen have the mean.
    assert second.tolist() == pytest.approx([1 / rate, 1 / rates[1], 1 / rates[2], 1 / rate], rel=1e-4)
    assert temperature.of_positive().item() == pytest.approx(1 / rate, rel=1e-5)
    assert temperature.shown().item() == pytest.approx(second.mean().item(), rel=1e-5)
    # A badly fitted user is trained with a higher temperature, that is a smaller weight on the hardest negatives.
    assert second[2] > second[0] > second[1]


def test_temperatures_hold_still_within_an_epoch_and_an_unseen_user_keeps_its_last_one() -> None:
    temperature = adaptive()
    trained(temperature, 0.0, [0, 1], COSINES, POSITIVES)
    before = trained(temperature, 1.0, [0, 1], COSINES, POSITIVES)
    trained(temperature, 1.5, [0, 0], COSINES, POSITIVES)
    assert torch.equal(before, trained(temperature, 1.9, [0, 1], COSINES, POSITIVES))
    kept = temperature.user_loss_U.clone()
    trained(temperature, 2.0, [0, 1], COSINES, POSITIVES)
    trained(temperature, 3.0, [0, 0], COSINES, POSITIVES)
    trained(temperature, 4.0, [0, 0], COSINES, POSITIVES)
    assert temperature.user_loss_U[1] == kept[1]
    assert temperature.user_loss_U[2:].isnan().all()


def test_a_shorter_refresh_takes_over_sooner() -> None:
    temperature = adaptive(refresh_epochs=0.25)
    first = trained(temperature, 0.0, [0, 1], COSINES, POSITIVES)
    assert not torch.equal(first, trained(temperature, 0.25, [0, 1], COSINES, POSITIVES))


def test_padding_and_fully_masked_rows_tell_the_temperature_nothing() -> None:
    temperature = adaptive()
    context = step_of(COSINES[[0, 1, 0]], POSITIVES[[0, 1, 0]], torch.tensor([[True] * 3, [False] * 3, [True] * 3]))
    context.batch.user_idx, context.batch.weight = torch.tensor([0, 1, 2]), torch.tensor([1.0, 1.0, 0.0])
    temperature.observe(context, torch.zeros(3))
    assert temperature.loss_count_U.tolist() == [1, 0, 0, 0]
    assert torch.isfinite(temperature.loss_sum_U).all()
    assert temperature.gap_sums.tolist() == pytest.approx([1.0, 2, 0.2, 3])


def test_temperatures_stay_within_bounds_whatever_is_seen() -> None:
    temperature = adaptive(beta=0.01)
    trained(temperature, 0.0, [0, 1], torch.tensor([[-1.0], [1.0]]), torch.tensor([1.0, -1.0]))
    values = trained(temperature, 1.0, [0, 1, 2], torch.zeros(3, 1), torch.zeros(3))
    assert torch.isfinite(values).all()
    assert (values >= 0.01 - 1e-6).all()
    assert 0.01 - 1e-6 <= temperature.of_positive().item() <= 1


def test_a_resumed_temperature_goes_on_as_if_never_stopped() -> None:
    straight, stopped = adaptive(refresh_epochs=2), adaptive(refresh_epochs=2)
    for epoch in (0.0, 1.0, 2.0):
        for temperature in (straight, stopped):
            trained(temperature, epoch, [0, 1], COSINES * (1 - epoch / 4), POSITIVES)
    resumed = adaptive(refresh_epochs=2)
    resumed.load_state_dict(stopped.state_dict())
    for epoch in (3.0, 4.0):
        expected = trained(straight, epoch, [0, 1], COSINES, POSITIVES)
        assert torch.equal(trained(resumed, epoch, [0, 1], COSINES, POSITIVES), expected)


class _Ranks:
    """Two ranks as threads: the few calls of torch.distributed that a temperature makes."""

    def __init__(self) -> None:
        self.meet, self.shown, self.own = threading.Barrier(2), [torch.empty(0)] * 2, threading.local()

    def is_available(self) -> bool:
        return True

    is_initialized = is_available

    def get_world_size(self) -> int:
        return 2

    def all_gather_single(self, gathered: Tensor, values: Tensor) -> None:
        self.shown[self.own.rank] = values.clone()
        self.meet.wait(timeout=30)
        gathered.copy_(torch.cat(self.shown))
        self.meet.wait(timeout=30)

    def all_reduce(self, values: Tensor) -> None:
        both = torch.empty(2, *values.shape, dtype=values.dtype)
        self.all_gather_single(both.flatten(), values)
        values.copy_(both.sum(0))


def test_all_ranks_learn_the_same_temperatures_from_all_users(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = adaptive()
    for epoch in (0.0, 1.0):
        trained(alone, epoch, [0, 3, 2, 3], COSINES[[0, 1, 1, 1]], POSITIVES[[0, 1, 1, 1]])
    ranks, temperatures = _Ranks(), [adaptive(), adaptive()]
    for module in ("ada_tau", "ranks"):
        monkeypatch.setattr(f"esans.negatives.{module}.dist", ranks)

    def train(rank: int) -> None:
        ranks.own.rank = rank
        for epoch in (0.0, 1.0):
            trained(temperatures[rank], epoch, [2 * rank, 3], COSINES[[rank, 1]], POSITIVES[[rank, 1]])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(train, range(2)))
    for temperature in temperatures:
        for name in ("user_loss_U", "loss_sum_U", "loss_count_U", "gap_sums", "mean_loss", "base_rate"):
            assert torch.allclose(getattr(temperature, name), getattr(alone, name), equal_nan=True), name


def test_adaptive_temperatures_need_to_know_how_many_users_there_are() -> None:
    with pytest.raises(ConfigError, match=r"ada_tau needs the numbers of users and interactions; run the shards stage"):
        temperature_of(Catalogue(3, torch.full((3,), 1 / 3)), "ada_tau")


@pytest.mark.parametrize("temperature", TEMPERATURES.known())
@pytest.mark.parametrize("loss", LOSSES.known())
def test_any_loss_trains_with_any_temperature_and_any_groups(loss: str, temperature: str, catalogue: Catalogue) -> None:
    catalogue.num_users, catalogue.num_interactions = 6, 50
    samplers = build_samplers(
        resolve([{"sampler": "uniform"}, {"sampler": "in_batch"}, {"sampler": "easy"}, {"sampler": "hard"}]), catalogue
    )
    groups = NegativeGroups(samplers, loss_of(catalogue, loss), temperature_of(catalogue, temperature))
    table = torch.randn(catalogue.num_items, 8, generator=generator_of(1)).requires_grad_()
    user = torch.randn(6, 8, generator=generator_of(2)).requires_grad_()

    def encode(ids: Sequence[Tensor]) -> list[Tensor]:
        return [torch.nn.functional.normalize(table, dim=-1)[part] for part in ids]

    for epoch in (0.0, 1.0):
        vectors = torch.nn.functional.normalize(user, dim=-1)
        result = groups(make_batch([0, 3, 12, 30, 35, 40]), vectors, encode, generator_of(0), epoch)
        result.loss_B.mean().backward()
        assert torch.isfinite(result.loss_B).all()
        for leaf in (table, user):
            assert leaf.grad is not None
            assert torch.isfinite(leaf.grad).all()
            assert leaf.grad.abs().sum() > 0
