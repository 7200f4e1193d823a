"""The gradient of a step: micro-batches and ranks add up to the one of the whole batch in one process, dense or sparse."""

from __future__ import annotations

import math
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Generator, Tensor
from torch.nn.parallel import DistributedDataParallel

from esans.model.config import ModelConfig
from esans.model.towers import TwoTower
from esans.negatives.base import Batch, Context, Negatives, Sampler
from esans.negatives.config import SamplerConfig
from esans.negatives.groups import NegativeGroups
from esans.negatives.tables import Catalogue
from esans.train.config import OptimizerConfig
from esans.train.gradients import Gradients, add_gradients, micro_batches
from esans.train.optimizer import build_optimizer
from esans.train.step import TrainStep
from tests.negatives.conftest import generator_of, loss_of, temperature_of

ITEMS, ROWS, DRAWS, STEPS = 30, 24, 5, 3


class Given(Sampler):
    """Uniform negatives that come with the examples, so that any split of a batch has the same; counts the rows it has met."""

    seen: Tensor

    def __init__(self, catalogue: Catalogue) -> None:
        super().__init__(SamplerConfig(sampler="given"), catalogue)
        self.register_buffer("seen", torch.zeros(()))

    def propose(self, batch: Batch, user_BD: Tensor, generator: Generator) -> Negatives:
        ids = batch.extra["draws"]
        return Negatives(ids, ~batch.knows(ids))

    def log_expected_count(self, context: Context, ids: Tensor) -> Tensor:
        return torch.full(ids.shape, math.log(DRAWS / ITEMS))

    def draws_per_example(self, batch: Batch) -> int:
        return DRAWS

    def observe(self, context: Context, loss_B: Tensor) -> None:
        self.seen += len(loss_B)


def step_of(tables: str) -> TrainStep:
    torch.manual_seed(0)
    catalogue = Catalogue(ITEMS, torch.full((ITEMS,), 1 / ITEMS))
    config = ModelConfig(dim=4, hidden=8, history_dropout=0.0, user_id=True)
    model = TwoTower(config, ITEMS, ROWS, 3, content_dim=0, side_sizes=[])
    step = TrainStep(model, NegativeGroups([Given(catalogue)], loss_of(catalogue), temperature_of(catalogue, "learned")))
    build_optimizer(step, OptimizerConfig(tables=tables))  # type: ignore[arg-type]
    return step


def batch_of(number: int, rank: int = 0, world_size: int = 1) -> Batch:
    """One rank's part of a batch of unequal weights, whose last third is padding."""
    random = generator_of(number)
    history = torch.randint(-1, ITEMS, (ROWS, 3), generator=random).sort(1).values
    target = torch.randint(ITEMS, (ROWS,), generator=random)
    draws = torch.randint(ITEMS, (ROWS, DRAWS), generator=random)
    weight = torch.rand(ROWS, generator=random) + 0.5
    weight[-ROWS // 3 :] = 0.0
    part = slice(rank * ROWS // world_size, (rank + 1) * ROWS // world_size)
    return Batch(torch.arange(ROWS)[part], history[part], target[part], weight[part], target[part, None], ITEMS, {"draws": draws[part]})


def outcome(accumulate: int, tables: str, rank: int = 0, world_size: int = 1) -> dict[str, Tensor]:
    """Loss, gradients and buffers after the last of several steps of plain descent."""
    step = step_of(tables)
    gradients, found = Gradients(step, world_size, accumulate), {}
    for number in range(STEPS):
        loss, figures = gradients(batch_of(number, rank, world_size), generator_of(1), 0.0, diagnose=number == STEPS - 1)
        assert bool(figures) == (number == STEPS - 1)
        found = {name: parameter.grad.to_dense().clone() for name, parameter in step.named_parameters() if parameter.grad is not None}
        with torch.no_grad():
            for parameter in step.parameters():
                if parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad.to_dense()
    assert all(
        parameter.grad is None or parameter.grad.is_sparse == (tables != "adamw" and "embedding" in name)
        for name, parameter in step.named_parameters()
    )
    return {"loss": loss, "seen": dict(step.named_buffers())["negatives.samplers.0.seen"], **found}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=1e-6), (name, (found[name] - value).abs().max())


@pytest.mark.parametrize("tables", ["adamw", "adagrad"])
@pytest.mark.parametrize("accumulate", [2, 4, ROWS])
def test_micro_batches_add_up_to_the_gradient_of_the_whole_batch(accumulate: int, tables: str) -> None:
    same(outcome(accumulate, tables), outcome(1, "adamw"))


def test_one_micro_batch_is_the_weighted_mean_itself() -> None:
    step, batch = step_of("adamw"), batch_of(0)
    loss, _ = Gradients(step, 1)(batch, generator_of(1), 0.0, diagnose=False)
    found = [parameter.grad.clone() for parameter in step.parameters() if parameter.grad is not None]
    step.zero_grad()
    loss_B, _ = step(batch, generator_of(1), 0.0, False)
    expected = (loss_B * batch.weight).sum() / batch.weight.sum()
    expected.backward()
    assert torch.equal(loss, expected.detach())
    assert all(map(torch.equal, found, [parameter.grad for parameter in step.parameters() if parameter.grad is not None]))


def test_a_batch_comes_apart_in_order_and_only_into_equal_parts() -> None:
    batch = batch_of(0)
    parts = micro_batches(batch, 3)
    assert torch.equal(torch.cat([part.target for part in parts]), batch.target)
    assert torch.equal(torch.cat([part.extra["draws"] for part in parts]), batch.extra["draws"])
    assert {(len(part), part.num_items) for part in parts} == {(8, ITEMS)}
    with pytest.raises(ValueError, match="24 examples don't make 5 equal micro-batches"):
        micro_batches(batch, 5)


def test_gradients_that_share_memory_are_added_apart() -> None:
    """d(a + b)/da and d(a + b)/db are one expanded tensor to autograd."""
    one, two = (torch.nn.Parameter(torch.zeros(3)) for _ in range(2))
    add_gradients((one + two).sum(), [one, two])
    ((one + two).sum() + one.sum()).backward()
    assert one.grad is not None
    assert two.grad is not None
    assert (one.grad.tolist(), two.grad.tolist()) == ([3.0] * 3, [2.0] * 3)


CASES = [(1, "adamw"), (3, "adamw"), (1, "sparse_adam"), (3, "adagrad")]


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save([outcome(*case, rank, 2) for case in CASES], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_nothing_that_holds_the_process_group_is_left_once_gradients_are_closed(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=(tmp_path / "meet").as_uri(), rank=0, world_size=1)
    try:
        gradients = Gradients(step_of("adamw"), 2)
        wrapped = weakref.ref(gradients.wrapped)
        assert isinstance(wrapped(), DistributedDataParallel)
        gradients(batch_of(0), generator_of(1), 0.0, diagnose=False)
        gradients.close()
        assert wrapped() is None
    finally:
        dist.destroy_process_group()


@pytest.mark.integration
def test_two_ranks_take_the_gradients_of_one_process_with_micro_batches_and_sparse_tables_too(tmp_path: Path) -> None:
    """The second rank's last micro-batch is all padding; the first step of a static graph reduces otherwise than the others."""
    mp.spawn(work, (str(tmp_path),), nprocs=2)
    expected = outcome(1, "adamw")
    # Every rank has met its half; what the first has learned counts.
    expected["seen"] = expected["seen"] / 2
    for rank in range(2):
        found: list[dict[str, Any]] = torch.load(tmp_path / f"{rank}.pt")
        for case in found:
            same(case, expected)
