"""The towers: shapes, padding, empty histories, and a folder that loads to the same vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from esans.errors import BundleError
from esans.model.config import ModelConfig
from esans.model.files import load, save
from esans.model.meta import materialise, without_memory
from esans.model.towers import TwoTower


def model_of(**keys: object) -> TwoTower:
    torch.manual_seed(0)
    model = TwoTower(
        ModelConfig(**{"dim": 8, "hidden": 16, **keys}), num_items=20, num_users=5, history_length=6, content_dim=7, side_sizes=[3, 4]
    )  # type: ignore[arg-type]
    model.set_content(torch.randn(20, 7), torch.stack([torch.arange(20) % 3, torch.arange(20) % 4], 1))
    return model.eval()


@pytest.mark.parametrize("keys", [{}, {"content": False, "side": False}, {"share_item_input": False}, {"user_id": True}, {"hidden": 0}])
def test_vectors_have_unit_norm_and_survive_the_folder(tmp_path: Path, keys: dict[str, object]) -> None:
    model = model_of(**keys)
    history = torch.tensor([[-1, -1, 3, 4, 5, 6], [-1] * 6, [0, 1, 2, 3, 4, 5]])
    users, items = model.encode_users(history, torch.tensor([0, 1, -1])), model.encode_items(torch.arange(20))
    assert torch.allclose(users.norm(dim=1), torch.ones(3), atol=1e-5)
    assert torch.allclose(items.norm(dim=1), torch.ones(20), atol=1e-5)
    save(model, tmp_path / "model")
    again = load(tmp_path / "model")
    assert torch.equal(again.encode_users(history, torch.tensor([0, 1, -1])), users)
    assert torch.equal(again.encode_items(torch.arange(20)), items)
    assert (again.dim, again.num_items, again.history_length) == (8, 20, 6)


@given(st.lists(st.integers(0, 19), min_size=1, max_size=5))
@settings(deadline=None)
def test_the_bag_equals_the_weighted_mean_of_the_items_inputs(items: list[int]) -> None:
    model = model_of()
    with torch.no_grad():
        model.place_logits_H.copy_(torch.linspace(-1, 1, 6))
    history = torch.tensor([[-1] * (6 - len(items)) + items])
    weights = torch.softmax(model.place_logits_H[6 - len(items) :], 0)
    pooled = (weights[:, None] * model.item_inputs(torch.tensor(items))).sum(0)
    expected = torch.nn.functional.normalize(model.user_layers(pooled), dim=-1)
    assert torch.allclose(model.encode_users(history)[0], expected, atol=1e-5)


def test_hidden_history_items_change_training_only() -> None:
    model = model_of(history_dropout=0.5)
    history = torch.arange(6).expand(64, -1)
    assert torch.equal(model.encode_users(history), model.encode_users(history))
    model.train()
    assert not torch.equal(model.encode_users(history), model.encode_users(history))


def test_a_history_that_dropout_emptied_gives_no_nan() -> None:
    model = model_of(history_dropout=0.99).train()
    vectors = model.encode_users(torch.tensor([[-1, -1, -1, -1, -1, 3]] * 100))
    assert torch.isfinite(vectors).all()
    vectors.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=f"no model in {tmp_path}: model.json is missing"):
        load(tmp_path)


def test_user_embeddings_need_users() -> None:
    with pytest.raises(ValueError, match="this model has user embeddings: pass user_idx"):
        model_of(user_id=True).encode_users(torch.zeros(1, 6, dtype=torch.long))


@pytest.mark.parametrize("keys", [{}, {"content": False, "side": False}, {"share_item_input": False, "user_id": True}, {"hidden": 0}])
def test_towers_without_memory_get_the_weights_of_towers_built_at_once(keys: dict[str, object]) -> None:
    """One seed, one set of weights, on every rank and either way; the frozen vectors are those given, shared by both inputs."""
    config = ModelConfig(**{"dim": 8, "hidden": 16, **keys})  # type: ignore[arg-type]
    sizes = {"num_items": 20, "num_users": 5, "history_length": 6, "content_dim": 7, "side_sizes": [3, 4]}
    content, side = torch.randn(20, 7), torch.arange(40).view(20, 2) % 3
    torch.manual_seed(3)
    expected = TwoTower(config, **sizes)  # type: ignore[arg-type]
    before = torch.get_rng_state()
    model = without_memory(config, **sizes)
    assert all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    assert torch.equal(torch.get_rng_state(), before), "describing draws nothing"
    torch.manual_seed(3)
    materialise(model, torch.device("cpu"), content if config.content else None, side if config.side else None)
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    for name, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    for inputs in model.all_inputs:
        assert (inputs.content_NF is content, inputs.side_NS is side) == (config.content, config.side)


class Allocations(TorchDispatchMode):
    """Counts tensors of at least `size` bytes that come to be in memory of their own."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.made = size, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = {tensor.data_ptr() for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, torch.Tensor) and not tensor.is_meta}
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and not tensor.is_meta and tensor.nbytes >= self.size:
                self.made += tensor.data_ptr() not in inputs
        return result


def test_a_large_table_is_allocated_once() -> None:
    config, sizes = ModelConfig(dim=8, side=False), {"num_users": 5, "history_length": 6, "content_dim": 8, "side_sizes": []}
    content = torch.randn(100_000, 8)
    with Allocations(content.nbytes) as seen:
        materialise(without_memory(config, num_items=100_000, **sizes), torch.device("cpu"), content, None)
    assert seen.made == 1
