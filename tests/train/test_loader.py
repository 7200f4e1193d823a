"""The loader through the real Petastorm reader: every example once, equal steps, padding that weighs nothing."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from esans.bundle import Bundle
from esans.errors import BundleError
from esans.negatives.base import Batch
from esans.train.loader import Loader


def loader_of(bundle: Bundle, rank: int = 0, world: int = 1, batch: int = 16, seed: int = 0, window: int = 3) -> Loader:
    return Loader(bundle.table("examples"), batch, rank, world, torch.device("cpu"), window, 2, seed)


def live_rows(batches: list[Batch]) -> Counter[tuple[int, ...]]:
    rows: Counter[tuple[int, ...]] = Counter()
    for batch in batches:
        for place in range(len(batch)):
            if batch.weight[place] > 0:
                rows[
                    (int(batch.user_idx[place]), int(batch.target[place]), *batch.history[place].tolist(), *batch.known[place].tolist())
                ] += 1
    return rows


def table_rows(bundle: Bundle) -> Counter[tuple[int, ...]]:
    columns = bundle.table("examples").arrow().to_pydict()
    zipped = zip(columns["user_idx"], columns["target"], columns["history"], columns["known"], strict=True)
    return Counter((user, target, *history, *known) for user, target, history, known in zipped)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("examples", [403, 97])
def test_ranks_yield_every_example_once_in_the_same_number_of_steps(
    make_inputs: Callable[..., dict[str, Bundle]], world: int, examples: int
) -> None:
    shards = make_inputs(examples)["shards"]
    parts = [list(loader_of(shards, rank, world).epoch(0)) for rank in range(world)]
    steps = {loader_of(shards, rank, world).steps(0) for rank in range(world)}
    assert {len(part) for part in parts} == steps
    assert len(steps) == 1
    assert all(len(batch) == 16 for part in parts for batch in part)
    assert live_rows([batch for part in parts for batch in part]) == table_rows(shards)


def test_the_same_seed_gives_the_same_batches_and_epochs_differ(make_inputs: Callable[..., dict[str, Bundle]]) -> None:
    shards = make_inputs()["shards"]

    def targets(epoch: int, seed: int) -> list[int]:
        return [int(target) for batch in loader_of(shards, seed=seed).epoch(epoch) for target in batch.target]

    assert targets(0, 0) == targets(0, 0)
    assert targets(0, 0) != targets(1, 0)
    assert targets(0, 0) != targets(0, 1)


def test_a_trainer_that_stops_early_leaves_no_reader_behind(make_inputs: Callable[..., dict[str, Bundle]]) -> None:
    batches = loader_of(make_inputs()["shards"]).epoch(0)
    next(batches)
    batches.close()
    _no_reader_is_left()


def test_petastorms_idle_worker_looks_seldom_whether_it_shall_end(make_inputs: Callable[..., dict[str, Bundle]]) -> None:
    next(iter(loader_of(make_inputs(examples=40)["shards"]).epoch(0)))
    from petastorm.workers_pool import thread_pool

    assert thread_pool.IO_TIMEOUT_INTERVAL_S == 0.02
    assert "IO_TIMEOUT_INTERVAL_S" in thread_pool.WorkerThread.run.__code__.co_names, "what the worker waits by"


def test_an_epoch_read_before_it_begins_is_the_same_and_what_is_not_used_is_given_up(make_inputs: Callable[..., dict[str, Bundle]]) -> None:
    shards = make_inputs()["shards"]
    loader, plain = loader_of(shards), loader_of(shards)
    state = loader.state_dict()
    for epoch, prepared in ((0, 0), (1, 2), (2, 2)):
        loader.prepare(prepared)
        assert loader.state_dict() == state
        read, expected = list(loader.epoch(epoch)), list(plain.epoch(epoch))
        assert [batch.target.tolist() for batch in read] == [batch.target.tolist() for batch in expected]
        state = loader.state_dict()
        assert state == plain.state_dict()
    loader.prepare(3)
    loader.close()
    _no_reader_is_left()


def _no_reader_is_left() -> None:
    for thread in threading.enumerate():
        if thread.name == "loader":
            thread.join(timeout=5)
            assert not thread.is_alive()


def test_a_corrupt_shard_is_named(make_inputs: Callable[..., dict[str, Bundle]]) -> None:
    shards = make_inputs()["shards"]
    uri = shards.table("examples").file_uris[3]
    Path(uri.removeprefix("file://")).write_bytes(b"PAR1 this is no Parquet file PAR1")
    with pytest.raises(BundleError, match="cannot read shard") as error:
        list(loader_of(shards).epoch(0))
    assert "row group 0" in str(error.value)
    assert uri in str(error.value)
