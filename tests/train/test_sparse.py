"""Adam over the rows of a step, and the mean of sparse gradients over ranks, against torch's own and against sums by hand."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SparseAdam

from esans.train import sparse
from esans.train.sparse import RowAdam, average_over_ranks, sparse_tables
from tests.negatives.conftest import generator_of

ROWS, WIDTH = 40, 6


def gradient_of(number: int, draws: int) -> Tensor:
    """Rows that repeat."""
    random = generator_of(number)
    ids = torch.randint(ROWS, (1, draws), generator=random)
    return torch.sparse_coo_tensor(ids, torch.randn(draws, WIDTH, generator=random), (ROWS, WIDTH), check_invariants=True)


@given(draws=st.lists(st.integers(0, 60), min_size=1, max_size=5), at_once=st.sampled_from([1, 20, 10_000]))
@settings(max_examples=30, deadline=None)
def test_row_adam_is_torchs_sparse_adam_to_the_last_bit_and_each_goes_on_from_the_others_state(draws: list[int], at_once: int) -> None:
    tables = [nn.Parameter(torch.randn(ROWS, WIDTH, generator=generator_of(0))) for _ in range(2)]
    steppers = [SparseAdam([tables[0]], lr=0.01), RowAdam([tables[1]], lr=0.01)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse, "_AT_ONCE", at_once)
        for number, size in enumerate(draws):
            for table, stepper in zip(tables, steppers, strict=True):
                table.grad = gradient_of(number, size)
                stepper.step()
            assert torch.equal(tables[0], tables[1])
            states = [deepcopy(stepper.state_dict()) for stepper in steppers]
            for name in ("step", "exp_avg", "exp_avg_sq"):
                one, two = (torch.as_tensor(state["state"][0][name]) for state in states)
                assert torch.equal(one, two), name
            steppers[0].load_state_dict(states[1])
            steppers[1].load_state_dict(states[0])


def test_tables_of_sparse_gradients_are_those_that_are_trained() -> None:
    module = nn.ModuleDict({"a": nn.Embedding(3, 2, sparse=True), "b": nn.Embedding(3, 2), "c": nn.Embedding(3, 2, sparse=True)})
    module["c"].weight.requires_grad_(False)  # type: ignore[union-attr]
    assert list(sparse_tables(module)) == ["a.weight"]


def work(rank: int, folder: str) -> None:
    """Three tables: touched by both ranks in different numbers of rows, by the second rank alone, and by none."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    tables = [nn.Parameter(torch.zeros(ROWS, WIDTH)) for _ in range(3)]
    tables[0].grad = gradient_of(rank, 10 + 20 * rank)
    if rank == 1:
        tables[1].grad = gradient_of(5, 4)
    average_over_ranks(tables, 2)
    assert tables[2].grad is None
    found = [table.grad for table in tables[:2] if table.grad is not None]
    assert all(one.is_coalesced() for one in found)
    torch.save([(one.indices(), one.values()) for one in found], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.integration
def test_two_ranks_share_the_mean_of_their_rows_and_a_table_that_only_one_has_used(tmp_path: Path) -> None:
    mp.spawn(work, (str(tmp_path),), nprocs=2)
    expected = [(gradient_of(0, 10) + gradient_of(1, 30)).to_dense() / 2, gradient_of(5, 4).to_dense() / 2]
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for place, dense in enumerate(expected):
        (ids, values), (others, same) = parts[0][place], parts[1][place]
        assert torch.equal(ids, others)
        assert torch.equal(values, same)
        assert len(set(ids[0].tolist())) == ids.shape[1]
        assert torch.allclose(torch.sparse_coo_tensor(ids, values, (ROWS, WIDTH), check_invariants=True).to_dense(), dense, atol=1e-6)
