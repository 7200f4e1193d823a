"""Sparse steps of the embedding tables: only touched rows move, as dense Adam would move them, and a checkpoint brings all back."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from esans.config import build
from esans.errors import ConfigError
from esans.model.config import ModelConfig
from esans.model.towers import TwoTower
from esans.train.config import OptimizerConfig, TrainConfig
from esans.train.optimizer import build_optimizer, build_schedule, clip_gradients

ITEMS = 50
HISTORY = torch.tensor([[-1, 3, 4, 5], [-1, -1, -1, 7]])
TARGETS, NEGATIVES = torch.tensor([10, 11]), torch.tensor([20, 21, 20])
TOUCHED = [3, 4, 5, 7, 10, 11, 20, 21]


def model_of() -> TwoTower:
    torch.manual_seed(0)
    config = ModelConfig(dim=8, hidden=16, user_id=True, history_dropout=0.0)
    model = TwoTower(config, num_items=ITEMS, num_users=6, history_length=4, content_dim=5, side_sizes=[3])
    model.set_content(torch.randn(ITEMS, 5), torch.arange(ITEMS)[:, None] % 3)
    return model


def config_of(tables: str = "sparse_adam", **keys: Any) -> OptimizerConfig:
    return build(OptimizerConfig, {"learning_rate": 0.01, "warmup_steps": 0, "tables": tables, **keys})


def backward(model: TwoTower) -> None:
    users = model.encode_users(HISTORY, torch.tensor([0, 2]))
    positives, negatives = model.encode_items(TARGETS), model.encode_items(NEGATIVES)
    ((users @ negatives.T).exp().sum() - (users * positives).sum() * 3).backward()


def trained(config: OptimizerConfig, steps: int) -> TwoTower:
    model = model_of()
    optimizer = build_optimizer(model, config)
    schedule = build_schedule(optimizer, config)
    for _ in range(steps):
        optimizer.zero_grad()
        backward(model)
        optimizer.step()
        schedule.step()
    return model


def moved(before: Tensor, after: Tensor) -> list[int]:
    return (before != after).any(1).nonzero().flatten().tolist()


@pytest.mark.parametrize("tables", ["sparse_adam", "adagrad"])
def test_a_sparse_step_moves_the_rows_of_histories_positives_and_negatives_and_no_others(tables: str) -> None:
    after = trained(config_of(tables), 3)
    assert moved(model_of().item_inputs.id_embedding.weight, after.item_inputs.id_embedding.weight) == TOUCHED
    assert after.user_embedding is not None
    assert moved(model_of().user_embedding.weight, after.user_embedding.weight) == [0, 2]  # type: ignore[union-attr]


def test_the_first_sparse_step_is_that_of_dense_adam_without_decay() -> None:
    dense, sparse = (trained(config_of(tables, weight_decay=0.0), 1).state_dict() for tables in ("adamw", "sparse_adam"))
    for name in dense:
        assert torch.allclose(dense[name], sparse[name], atol=1e-6), name


def test_bags_and_rows_give_the_gradients_of_the_dense_tables() -> None:
    models = [model_of(), model_of()]
    for model, tables in zip(models, ("adamw", "sparse_adam"), strict=True):
        build_optimizer(model, config_of(tables))
        backward(model)
    for (name, dense), sparse in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        if dense.grad is None or sparse.grad is None:
            assert dense.grad is sparse.grad
            continue
        assert sparse.grad.is_sparse == name.endswith("embedding.weight") or "side_embeddings" in name, name
        assert torch.allclose(dense.grad, sparse.grad.to_dense(), atol=1e-6), name


def test_a_catalogue_that_is_smaller_than_the_histories_is_stepped_all_the_same() -> None:
    model = model_of()
    optimizer = build_optimizer(model, config_of())
    model.encode_users(torch.arange(64).view(16, 4) % ITEMS, torch.zeros(16, dtype=torch.long)).sum().backward()
    optimizer.step()
    assert len(moved(model_of().item_inputs.id_embedding.weight, model.item_inputs.id_embedding.weight)) == ITEMS


def test_clipping_bounds_dense_gradients_and_leaves_sparse_ones_alone() -> None:
    model, config = model_of(), config_of(clip_norm=0.01)
    build_optimizer(model, config)
    backward(model)
    table = model.item_inputs.id_embedding.weight.grad
    assert table is not None
    before = table.to_dense().clone()
    clip_gradients(model, config)
    dense = [p.grad for p in model.parameters() if p.grad is not None and not p.grad.is_sparse]
    assert torch.cat([grad.flatten() for grad in dense]).norm() == pytest.approx(0.01, rel=1e-3)
    assert torch.equal(table.to_dense(), before)


@pytest.mark.parametrize("tables", ["sparse_adam", "adagrad"])
def test_a_resumed_run_steps_like_an_undisturbed_one_and_its_schedule_reaches_both_optimisers(tables: str) -> None:
    config = config_of(tables, warmup_steps=10, table_learning_rate=0.05)
    first = model_of()
    optimizer = build_optimizer(first, config)
    schedule = build_schedule(optimizer, config)

    def steps(model: TwoTower, stepper: torch.optim.Optimizer, warmup: torch.optim.lr_scheduler.LambdaLR) -> None:
        for _ in range(3):
            stepper.zero_grad()
            backward(model)
            stepper.step()
            warmup.step()

    steps(first, optimizer, schedule)
    second = model_of()
    second.load_state_dict(first.state_dict())
    resumed = build_optimizer(second, config)
    resumed_schedule = build_schedule(resumed, config)
    # A copy, as from a file: state dicts share their tensors with the optimiser.
    resumed.load_state_dict(deepcopy(optimizer.state_dict()))
    resumed_schedule.load_state_dict(schedule.state_dict())
    steps(first, optimizer, schedule)
    steps(second, resumed, resumed_schedule)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert [group["lr"] for group in resumed.param_groups] == pytest.approx([0.007, 0.035])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"optimizer": {"tables": "sparse_adam", "table_weight_decay": 0.1}},
            "optimizer: optimizer.table_weight_decay = 0.1, but optimizer.tables = 'sparse_adam' touches only the rows of a step, and "
            "decay would touch all; take adamw, or leave it out",
        ),
        (
            {"optimizer": {"tables": "adagrad"}, "compile": True},
            "compile = true, but optimizer.tables = 'adagrad' needs sparse gradients, which torch.compile can't make; take adamw",
        ),
        (
            {"optimizer": {"final_share": 0.1}},
            "optimizer: optimizer.final_share = 0.1 needs optimizer.schedule = 'cosine' or 'linear'",
        ),
        (
            {"batch_size": 96, "accumulate": 5, "launch": {"processes": 2}},
            "accumulate = 5 does not divide the 48 examples that each process takes of a batch; micro-batches are equal parts",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_with_the_reason(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        build(TrainConfig, keys)
    assert str(refused.value) == message


def test_tables_decay_as_told_and_never_under_a_sparse_optimiser() -> None:
    def decays(**keys: Any) -> list[float]:
        return [group.get("weight_decay", 0.0) for group in build_optimizer(model_of(), config_of(**keys)).param_groups]

    # Tables come first where adamw steps them, last beside it.
    assert decays(tables="adamw", weight_decay=0.1) == [0.1, 0.1]
    assert decays(tables="adamw", weight_decay=0.1, table_weight_decay=0.0) == [0.0, 0.1]
    assert decays(tables="sparse_adam", weight_decay=0.1) == [0.1, 0.0]
    assert decays(tables="adagrad", weight_decay=0.1) == [0.1, 0.0]


def test_adagrad_divides_by_the_root_of_all_squares_so_far_and_repeated_rows_count_once() -> None:
    """w <- w - lr g / sqrt(sum g^2), by hand over two steps."""
    model, config = model_of(), config_of("adagrad")
    optimizer = build_optimizer(model, config)
    table = model.item_inputs.id_embedding.weight
    expected, squares = table.detach().clone(), torch.zeros_like(table)
    for _ in range(2):
        optimizer.zero_grad()
        backward(model)
        assert table.grad is not None
        gradient = table.grad.to_dense()
        squares += gradient.square()
        expected -= 0.01 * gradient / (squares.sqrt() + 1e-10)
        optimizer.step()
        assert torch.allclose(table, expected, atol=1e-6)
    assert moved(model_of().item_inputs.id_embedding.weight, table) == TOUCHED


@pytest.mark.parametrize(
    ("schedule", "final_share", "expected"),
    [
        ("constant", 0.0, [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", 0.0, [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]),
        ("linear", 0.2, [0.5, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2]),
        ("cosine", 0.0, [0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447, 0.0]),
        ("cosine", 0.5, [0.5, 1.0, 1.0, 0.926777, 0.75, 0.573223, 0.5]),
    ],
)
def test_step_sizes_rise_over_the_warm_up_and_fall_to_their_final_share_at_the_last_step(
    schedule: str, final_share: float, expected: list[float]
) -> None:
    """Seven steps, two of warm-up, in every group by its own step size; no step after the last, and resumed in the middle."""
    config = config_of("adagrad", schedule=schedule, final_share=final_share, warmup_steps=2, table_learning_rate=0.05)

    def started() -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
        optimizer = build_optimizer(model_of(), config)
        return optimizer, build_schedule(optimizer, config, 7)

    optimizer, lr = started()
    for place, share in enumerate(expected):
        if place == 4:
            state, (optimizer, lr) = lr.state_dict(), started()
            lr.load_state_dict(state)
            # The groups come from the checkpoint of the optimiser.
            for group, size in zip(optimizer.param_groups, lr.get_last_lr(), strict=True):
                group["lr"] = size
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01 * share, 0.05 * share], abs=1e-7)
        optimizer.step()
        lr.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * expected[-1], abs=1e-7)
    if schedule != "constant":
        with pytest.raises(ValueError, match=f"the {schedule} schedule needs the number of steps"):
            build_schedule(optimizer, config)
