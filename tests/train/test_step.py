"""The training step: item inputs that both towers share, and shapes that do not depend on values, change no result."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from esans.model.config import ModelConfig
from esans.model.towers import TwoTower
from esans.negatives.base import Batch
from esans.negatives.groups import NegativeGroups
from esans.negatives.registry import build_samplers, resolve
from esans.negatives.tables import Catalogue
from esans.train.config import OptimizerConfig
from esans.train.guard import Guard, TrainingDiverged
from esans.train.optimizer import build_optimizer, clip_gradients, step_unless
from esans.train.step import TrainStep
from tests.negatives.conftest import loss_of, temperature_of

ITEMS, ROWS, PLACES = 40, 16, 12


def batch_of() -> Batch:
    draw = torch.Generator().manual_seed(3)
    history = torch.randint(-1, ITEMS, (ROWS, PLACES), generator=draw).sort(1).values
    target = torch.randint(ITEMS, (ROWS,), generator=draw)
    return Batch(torch.arange(ROWS), history, target, torch.ones(ROWS), target[:, None])


def step_of(share: bool = True, dynamic: bool = True, negatives: int = 1) -> TrainStep:
    torch.manual_seed(0)
    config = ModelConfig(dim=8, hidden=16, history_dropout=0.0, share_item_input=share)
    model = TwoTower(config, num_items=ITEMS, num_users=ROWS, history_length=PLACES, content_dim=5, side_sizes=[3])
    model.set_content(torch.randn(ITEMS, 5), torch.arange(ITEMS)[:, None] % 3)
    catalogue = Catalogue(ITEMS, torch.full((ITEMS,), 1 / ITEMS), None)
    samplers = build_samplers(resolve([{"sampler": "uniform", "num_negatives": negatives}]), catalogue)
    return TrainStep(model, NegativeGroups(samplers, loss_of(catalogue), temperature_of(catalogue)), dynamic)


def outcome(step: TrainStep, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    loss_B, _ = step(batch, torch.Generator().manual_seed(1), 0.0, False)
    loss_B.sum().backward()
    return loss_B.detach(), {name: p.grad for name, p in step.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("negatives", [1, 9])
@pytest.mark.parametrize("dynamic", [True, False])
def test_shared_inputs_give_the_losses_and_gradients_of_separate_ones(
    negatives: int, dynamic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_of()
    assert step_of().model.shared_inputs(batch.history.numel()) is not None
    loss_B, gradients = outcome(step_of(dynamic=dynamic, negatives=negatives), batch)
    monkeypatch.setattr(TwoTower, "shared_inputs", lambda self, places: None)
    expected_B, expected = outcome(step_of(dynamic=dynamic, negatives=negatives), batch)
    assert torch.allclose(loss_B, expected_B, atol=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(gradients[name], gradient, atol=1e-5), name


@pytest.mark.parametrize("negatives", [1, 9])
def test_shapes_that_depend_on_values_save_work_and_change_nothing(negatives: int) -> None:
    batch = batch_of()
    batch.history = batch.history[:, -2:]
    steps = [step_of(dynamic=dynamic, negatives=negatives) for dynamic in (True, False)]
    for step in steps:
        step.model.place_logits_H = torch.nn.Parameter(torch.zeros(2))
    (one_B, one), (two_B, two) = (outcome(step, batch) for step in steps)
    assert torch.allclose(one_B, two_B, atol=1e-5)
    for name, gradient in one.items():
        assert torch.allclose(two[name], gradient, atol=1e-5), name


def test_a_history_table_of_its_own_shares_nothing_and_few_places_do_not_pay() -> None:
    assert step_of(share=False).model.shared_inputs(10 * ITEMS) is None
    assert step_of().model.shared_inputs(ITEMS - 1) is None


@pytest.mark.parametrize("tables", ["adamw", "sparse_adam", "adagrad"])
def test_an_update_that_is_not_finite_leaves_weights_and_moments_alone_and_the_next_one_goes_on(tables: str) -> None:
    """Steps good, bad, good end where good, good do; the bad one is counted."""

    def run(kinds: list[float]) -> tuple[dict[str, Tensor], Guard]:
        step, guard = step_of(), Guard(torch.device("cpu"), 2)
        config = OptimizerConfig(tables=tables)  # type: ignore[arg-type]
        optimizer = build_optimizer(step, config)
        for factor in kinds:
            loss_B, _ = step(batch_of(), torch.Generator().manual_seed(1), 0.0, False)
            loss = loss_B.sum() * factor
            optimizer.zero_grad()
            loss.backward()
            step_unless(optimizer, guard.found(loss.detach(), clip_gradients(step, config)))
        return step.state_dict(), guard

    (one, none_bad), (two, one_bad) = run([1.0, 1.0]), run([1.0, torch.nan, 1.0])
    for name, value in one.items():
        assert torch.equal(two[name], value), name
    assert (none_bad.skipped, one_bad.skipped, one_bad.in_a_row) == (0, 1, 0)


def test_skips_in_a_row_end_the_training_with_the_step_and_the_groups() -> None:
    guard, fine = Guard(torch.device("cpu"), 2), torch.tensor(1.0)
    for bad in (fine, fine * torch.nan, fine):
        guard.found(bad, fine)
        guard.check(3, ["easy"])
    guard.found(fine, fine * torch.inf)
    guard.found(fine * torch.nan, fine)
    with pytest.raises(TrainingDiverged, match=r"^step 50: the last 2 updates had .* skipped \(negatives: in_batch, easy\)\."):
        guard.check(50, ["in_batch", "easy"])
    assert guard.skipped == 3
