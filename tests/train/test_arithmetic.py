"""bfloat16 and compiled towers: the losses of plain float32, close or equal, and weights of the same names and type."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from esans.model.config import ModelConfig
from esans.model.towers import TwoTower
from esans.negatives.base import Batch
from esans.negatives.groups import NegativeGroups
from esans.negatives.registry import build_samplers, resolve
from esans.negatives.tables import Catalogue
from esans.train.arithmetic import uses_bf16
from esans.train.gradients import Gradients
from esans.train.shards import data_parallel
from esans.train.step import TrainStep
from tests.negatives.conftest import generator_of, loss_of, temperature_of

ITEMS, ROWS, PLACES = 200, 16, 4
CPU = torch.device("cpu")


def step_of(content: bool = True, **how: Any) -> TrainStep:
    """Towers over fewer places than items and more draws than that would be, so that rows are looked up in all ways."""
    torch.manual_seed(0)
    config = ModelConfig(dim=16, hidden=32, history_dropout=0.2, content=content, side=content)
    model = TwoTower(config, num_items=ITEMS, num_users=ROWS, history_length=PLACES, content_dim=5, side_sizes=[3])
    model.set_content(torch.randn(ITEMS, 5), torch.arange(ITEMS)[:, None] % 3)
    catalogue = Catalogue(ITEMS, torch.full((ITEMS,), 1 / ITEMS))
    samplers = build_samplers(resolve([{"sampler": "in_batch"}, {"sampler": "uniform", "num_negatives": 3}]), catalogue)
    return TrainStep(model, NegativeGroups(samplers, loss_of(catalogue), temperature_of(catalogue, "learned")), **how)


def batch_of(number: int = 0) -> Batch:
    random = generator_of(number)
    history = torch.randint(-1, ITEMS, (ROWS, PLACES), generator=random).sort(1).values
    target = torch.randint(ITEMS, (ROWS,), generator=random)
    return Batch(torch.arange(ROWS), history, target, torch.rand(ROWS, generator=random) + 0.5, target[:, None], ITEMS)


def outcome(gradients: Gradients, number: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of a step whose draws and dropout are those of its number."""
    torch.manual_seed(number)
    loss, _ = gradients(batch_of(number), generator_of(number), 0.0, diagnose=True)
    return loss, {name: parameter.grad for name, parameter in gradients.module.named_parameters() if parameter.grad is not None}


class Products(TorchDispatchMode):
    """Types of the inputs of matrix products, and of everything under a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[tuple[str, torch.dtype]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name in ("mm", "addmm", "_log_softmax", "exp", "linalg_vector_norm"):
            self.seen[name, next(value.dtype for value in args if isinstance(value, Tensor))] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("content", [True, False])
def test_bf16_towers_give_nearly_the_losses_of_float32_from_float32_weights(content: bool) -> None:
    plain, half = Gradients(step_of(content), 1), Gradients(step_of(content, bf16=True), 1, accumulate=1)
    expected, exact = outcome(plain)
    with Products() as products:
        loss, gradients = outcome(half)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=0.01)
    assert loss.item() != expected.item()
    assert gradients.keys() == exact.keys()
    for name, parameter in half.module.named_parameters():
        assert parameter.dtype == torch.float32, name
        assert torch.isfinite(gradients[name]).all(), name
        assert gradients[name].dtype == torch.float32, name
        assert (gradients[name] - exact[name]).norm() <= 0.05 * exact[name].norm() + 1e-6, name
    layers = {dtype for (name, dtype) in products.seen if name == "addmm"}
    assert layers == {torch.bfloat16}
    # The scores of shared draws are a product too, and stay as they are.
    assert products.seen["mm", torch.float32] > 0
    assert {dtype for (name, dtype) in products.seen if name not in ("mm", "addmm")} == {torch.float32}


def test_auto_is_bf16_on_a_gpu_that_has_it_and_float32_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    assert [uses_bf16(precision, CPU) for precision in ("auto", "float32", "bf16")] == [False, False, True]
    for supported in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, supported=supported: supported)
        assert [uses_bf16(precision, gpu) for precision in ("auto", "float32", "bf16")] == [supported, False, True]


@pytest.mark.integration
@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="torch.compile needs a C++ compiler on a CPU; none was found")
def test_compiled_towers_give_the_losses_and_gradients_of_plain_ones_in_ddp_too(tmp_path: Path) -> None:
    """Without shapes that depend on values, as on a GPU; the names of weights are those of the uncompiled module."""
    plain, compiled = (Gradients(step_of(False, dynamic_shapes=False, compiled=compiled), 1) for compiled in (False, True))
    assert compiled.module.state_dict().keys() == plain.module.state_dict().keys()

    def agree(number: int) -> None:
        (expected, exact), (loss, gradients) = outcome(plain, number), outcome(compiled, number)
        assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
        for name, value in exact.items():
            assert torch.allclose(gradients[name], value, atol=1e-5), name

    dist.init_process_group("gloo", init_method=(tmp_path / "meet").as_uri(), rank=0, world_size=1)
    try:
        compiled.wrapped = data_parallel(compiled.module)
        for number in (0, 1):
            agree(number)
    finally:
        compiled.close()
        dist.destroy_process_group()
    assert compiled.module.state_dict().keys() == plain.module.state_dict().keys()
    assert compiled.module.encode_users is not compiled.module.model.encode_users
