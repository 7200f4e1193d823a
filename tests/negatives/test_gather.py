"""In-batch negatives of all processes: two ranks take the step that one process takes with the whole batch."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from esans.model.config import ModelConfig
from esans.model.towers import TwoTower
from esans.negatives.base import Batch
from esans.negatives.groups import NegativeGroups
from esans.negatives.registry import build_samplers, resolve
from esans.negatives.tables import Catalogue
from esans.train.step import TrainStep
from tests.negatives.conftest import generator_of, loss_of, temperature_of

ITEMS, ROWS, STEPS = 30, 12, 3


def groups_of(**keys: Any) -> list[dict[str, Any]]:
    # A shared pool is the same on every rank by its seed; beside it, the pooled correction has to know all ranks' positives.
    return resolve([{"sampler": "in_batch", **keys}, {"sampler": "uniform", "num_negatives": 5, "shared": True}])


def step_of(groups: list[dict[str, Any]]) -> TrainStep:
    torch.manual_seed(0)
    counts = torch.arange(ITEMS).float()
    catalogue = Catalogue(ITEMS, counts / counts.sum())
    model = TwoTower(ModelConfig(dim=4, hidden=8, history_dropout=0.0), ITEMS, ROWS, 2, content_dim=0, side_sizes=[])
    return TrainStep(model, NegativeGroups(build_samplers(groups, catalogue), loss_of(catalogue), temperature_of(catalogue, "learned")))


def batch_of(step: int, rank: int = 0, world_size: int = 1) -> Batch:
    """One rank's part of a batch with repeated positives, unequal weights and a row of padding that has a legal item."""
    random = generator_of(step)
    target = torch.randint(ITEMS // 3, (ROWS,), generator=random)
    history = torch.randint(-1, ITEMS, (ROWS, 2), generator=random)
    weight = torch.rand(ROWS, generator=random) + 0.5
    weight[-1] = 0.0
    # Known positives among what other ranks bring.
    known = torch.stack([torch.full((ROWS,), -1), target.roll(ROWS // 2)], dim=1)
    part = slice(rank * ROWS // world_size, (rank + 1) * ROWS // world_size)
    return Batch(torch.arange(ROWS)[part], history[part], target[part], weight[part], known[part], ITEMS)


def trained(groups: list[dict[str, Any]], rank: int = 0, world_size: int = 1) -> dict[str, Tensor]:
    """Loss and gradients of the last of several steps of plain descent, and the buffers after it."""
    module = step_of(groups)
    wrapped = DistributedDataParallel(module, static_graph=True) if world_size > 1 else module
    for step in range(STEPS):
        batch = batch_of(step, rank, world_size)
        module.zero_grad()
        loss_B, _ = wrapped(batch, generator_of(step), 0.0, step == STEPS - 1)
        total = torch.stack([(loss_B.detach() * batch.weight).sum(), batch.weight.sum()])
        if world_size > 1:
            dist.all_reduce(total)
        ((loss_B * batch.weight).sum() * world_size / total[1]).backward()
        with torch.no_grad():
            for parameter in module.parameters():
                assert parameter.grad is not None
                parameter -= 0.1 * parameter.grad
    found = {f"gradient of {name}": parameter.grad for name, parameter in module.named_parameters()}
    return {"loss": total[0] / total[1], **found, **module.state_dict()}  # type: ignore[dict-item]


def work(rank: int, folder: str, cases: list[list[dict[str, Any]]]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save([trained(groups, rank, 2) for groups in cases], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_that_gather_take_the_steps_of_one_process(tmp_path: Path) -> None:
    cases = [groups_of(), groups_of(estimate="streaming"), groups_of(gather=False)]
    # Forked: what takes long is importing torch, and what DDP imports at its first use.
    import_module("torch._dynamo")
    mp.start_processes(work, (str(tmp_path), cases), nprocs=2, start_method="fork")
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for place, groups in enumerate(cases):
        one, two = trained(groups), ranks[0][place]
        assert all(torch.equal(two[name], ranks[1][place][name]) for name in two), "ranks hold the same"
        away = {name: (value.double() - two[name].double()).abs().max().item() for name, value in one.items()}
        if groups[0]["gather"]:
            assert max(away.values()) < 1e-5, away
        else:
            assert away["loss"] > 1e-2
            assert away["gradient of model.item_inputs.id_embedding.weight"] > 1e-3


@pytest.mark.parametrize("gather", [False, True])
def test_one_process_has_nobody_to_gather_from(gather: bool) -> None:
    step, batch = step_of(groups_of(gather=gather)), batch_of(0)
    sampler: Any = step.negatives.samplers[0]
    drawn = sampler.propose(batch, torch.zeros(ROWS, 4), generator_of(0))
    assert drawn.ids[:-1].tolist() == batch.target[:-1].tolist()
    assert sampler.draws_per_example(batch) == ROWS
    vectors = torch.randn(ROWS, 4)
    assert drawn.from_positives is not None
    assert drawn.from_positives(vectors) is vectors, "the positives' own vectors, not encoded again"
