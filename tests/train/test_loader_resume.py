"""A loader that is killed at any step goes on with just the examples that were left, on any number of ranks, and outlives bad shards."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esans import columns as c
from esans.errors import BundleError
from esans.negatives.base import Batch
from esans.table import DataFile, Table
from esans.train import loader as loader_module
from esans.train.loader import Loader
from esans.train.plan import EpochPlan, remaining, split, steps_per_epoch

CPU = torch.device("cpu")
sizes_of_files = st.lists(st.integers(0, 30), min_size=1, max_size=8).filter(lambda sizes: sum(sizes) > 0)
# World size, batch of a rank and steps until the kill.
lives = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(0, 6)), max_size=4)


def write_table(uri: str, sizes: list[int]) -> Table:
    """Files whose examples are told apart by `user_idx`: 0, 1, 2, ... in file order."""
    filesystem, path = fsspec.core.url_to_fs(uri)
    filesystem.makedirs(path, exist_ok=True)
    files, first = [], 0
    for place, rows in enumerate(sizes):
        users = np.arange(first, first + rows)
        lists = pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(users, 3).astype(np.int32)), 3).cast(pa.list_(pa.int32()))
        columns = {c.USER_IDX: users, c.TARGET: users + 1000, c.HISTORY: lists, c.KNOWN: lists, c.WEIGHT: np.full(rows, 0.5, np.float32)}
        name = f"part-{place}.parquet"
        with filesystem.open(f"{path}/{name}", "wb") as stream:
            pq.write_table(pa.table(columns), stream)
        files.append(DataFile(name, rows, 1))
        first += rows
    return Table(uri, "", files)


def loader_of(table: Table, rank: int, world: int, batch: int, window: int = 2, **other: Any) -> Loader:
    return Loader(table, batch, rank, world, CPU, window, 2, 7, **other)


def live(batches: list[Batch]) -> Counter[int]:
    return Counter(user for batch in batches for user in batch.user_idx[batch.weight > 0].tolist())


def run(table: Table, state: dict[str, Any] | None, world: int, batch: int, steps: int | None, **other: Any) -> tuple[Counter[int], dict]:
    """What all ranks yield until they are killed (or the end), and rank 0's state, after a trip through JSON."""
    seen: Counter[int] = Counter()
    states, counts = [], set()
    for rank in range(world):
        loader = loader_of(table, rank, world, batch, **other)
        if state is not None:
            loader.load_state_dict(state)
        promised = loader.steps(0)
        batches: list[Batch] = []
        stream = loader.epoch(0)
        while (steps is None or len(batches) < steps) and (found := next(stream, None)) is not None:
            batches.append(found)
        stream.close()
        if steps is None:
            assert len(batches) == promised
        assert all(len(one) == batch for one in batches)
        counts.add(len(batches))
        seen += live(batches)
        states.append(loader.state_dict())
    assert len(counts) == 1
    assert all(one == states[0] for one in states)
    return seen, json.loads(json.dumps(states[0]))


@given(sizes=sizes_of_files, window=st.integers(1, 4), lives=lives, last=st.tuples(st.integers(1, 4), st.integers(1, 9)))
@settings(max_examples=200, deadline=None)
def test_any_chain_of_kills_and_world_sizes_visits_every_row_once_in_equal_steps(
    sizes: list[int], window: int, lives: list[tuple[int, int, int]], last: tuple[int, int]
) -> None:
    plan = EpochPlan(sizes, window, 3, 1)
    left, seen = plan.whole(), Counter[int]()
    for world, batch, kill in [*lives, (*last, None)]:
        steps = steps_per_epoch(left, batch, world)
        done = steps if kill is None else min(kill, steps)
        for rank in range(world):
            rows = [row for start, stop in split(left, rank, world) for row in range(start, stop)]
            assert len(rows) <= steps * batch
            seen.update(rows[: done * batch])
        left = remaining(left, done, batch, world)
        assert len(left) <= 1 + sum(world for world, _, _ in lives)
    assert left == []
    assert seen == Counter(range(plan.rows))


@given(
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=6).filter(any),
    window=st.integers(1, 4),
    lives=lives,
    last=st.tuples(st.integers(1, 4), st.integers(1, 9)),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_real_shards_through_any_chain_of_kills_yield_every_example_once(
    tmp_path: Path, sizes: list[int], window: int, lives: list[tuple[int, int, int]], last: tuple[int, int]
) -> None:
    table = write_table(f"file://{tmp_path}/{uuid.uuid4().hex}", sizes)
    state, seen = None, Counter[int]()
    for world, batch, kill in lives:
        found, state = run(table, state, world, batch, kill, window=window)
        seen += found
    found, state = run(table, state, *last, None, window=window)
    assert seen + found == Counter(range(sum(sizes)))
    assert state["left"] == []


@pytest.mark.parametrize("world", [1, 2])
def test_on_the_same_world_size_a_resumed_run_sees_the_very_batches_of_an_undisturbed_one(tmp_path: Path, world: int) -> None:
    table = write_table(f"file://{tmp_path}", [13, 20, 7, 31])
    for rank in range(world):
        whole = list(loader_of(table, rank, world, 4).epoch(0))
        killed = loader_of(table, rank, world, 4)
        stream = killed.epoch(0)
        begun = [next(stream) for _ in range(3)]
        resumed = loader_of(table, rank, world, 4)
        resumed.load_state_dict(killed.state_dict())
        assert resumed.steps(0) == len(whole) - 3
        for one, other in zip([*begun, *resumed.epoch(0)], whole, strict=True):
            assert torch.equal(one.user_idx, other.user_idx)
            assert torch.equal(one.weight, other.weight)


def test_read_ahead_does_not_count_and_the_next_epoch_is_whole(tmp_path: Path) -> None:
    table = write_table(f"file://{tmp_path}", [40])
    loader = loader_of(table, 0, 1, 8)
    stream = loader.epoch(0)
    next(stream)
    # By now two more may be read; one was yielded.
    assert loader.state_dict()["left"] == [[8, 40]]
    again = loader_of(table, 0, 1, 8)
    again.load_state_dict(loader.state_dict())
    assert (again.steps(0), again.steps(1)) == (4, 5)
    assert again.state_dict() == loader.state_dict()
    list(again.epoch(0))
    assert again.state_dict()["left"] == []
    assert live(list(again.epoch(1))) == Counter(range(40))


def test_a_sample_of_the_stream_resumes_too_and_kept_files_serve_again(tmp_path: Path) -> None:
    table = write_table(f"file://{tmp_path}", [10] * 6)
    whole = live(list(loader_of(table, 0, 1, 4, rows_per_epoch=23).epoch(0)))
    first, state = run(table, None, 2, 4, 2, rows_per_epoch=23)
    second, _ = run(table, state, 1, 4, None, rows_per_epoch=23, keep=True)
    assert first + second == whole
    assert sum(whole.values()) == 23
    kept = loader_of(table, 0, 1, 4, keep=True)
    list(kept.epoch(0))
    for file in tmp_path.iterdir():
        file.unlink()
    assert live(list(kept.epoch(1))) == Counter(range(60))


def test_a_state_of_another_stream_is_refused(tmp_path: Path) -> None:
    state = loader_of(write_table(f"file://{tmp_path}/one", [10, 9]), 0, 1, 4).state_dict()
    with pytest.raises(BundleError, match=r"another stream of examples \(rows 19 -> 18\)"):
        loader_of(write_table(f"file://{tmp_path}/two", [9, 9]), 0, 1, 4).load_state_dict(state)


def test_more_ranks_than_examples_still_take_equal_steps(tmp_path: Path) -> None:
    table = write_table(f"file://{tmp_path}", [2])
    seen, _ = run(table, None, 4, 3, None)
    assert seen == Counter([0, 1])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def damage_pages(path: Path) -> None:
    """The footer stays whole."""
    data = path.read_bytes()
    path.write_bytes(data[:4] + bytes(255 for _ in range(len(data) // 2)) + data[4 + len(data) // 2 :])


def remove(path: Path) -> None:
    path.unlink()


def replace_by_fewer_rows(path: Path) -> None:
    pq.write_table(pq.read_table(path).slice(0, 3), path)


def lose_a_column(path: Path) -> None:
    """Arrow says so with a KeyError."""
    pq.write_table(pq.read_table(path).drop_columns([c.KNOWN]), path)


def put_a_null(path: Path) -> None:
    table = pq.read_table(path)
    place = table.column_names.index(c.TARGET)
    values = pa.array([None, *table.column(place).to_pylist()[1:]], table.schema.field(place).type)
    pq.write_table(table.set_column(place, c.TARGET, values), path)


FAULTS = [truncate, damage_pages, remove, replace_by_fewer_rows, lose_a_column, put_a_null]


@pytest.mark.parametrize("place", [0, 1, 3])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_shard_is_an_error_that_names_file_and_row_group(tmp_path: Path, fault: Any, place: int) -> None:
    table = write_table(f"file://{tmp_path}", [30, 30, 30, 30])
    fault(tmp_path / f"part-{place}.parquet")
    with pytest.raises(BundleError, match=rf"cannot read shard file://.*part-{place}\.parquet, row group 0"):
        list(loader_of(table, 0, 1, 8).epoch(0))


class ClientError(Exception):
    """As aiohttp has: no OSError."""


@pytest.mark.parametrize("error", [ClientError(), pa.ArrowNotImplementedError("no such codec"), KeyError("known"), TypeError("None")])
def test_any_error_of_a_store_or_of_arrow_names_the_shard_and_is_skipped_where_that_is_wanted(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_table(f"memory://bucket/{uuid.uuid4().hex}", [30, 30, 30])
    real = MemoryFileSystem._open

    def failing(self: MemoryFileSystem, path: str, *args: Any, **keys: Any) -> Any:
        if path.endswith("part-1.parquet"):
            raise error
        return real(self, path, *args, **keys)

    monkeypatch.setattr(MemoryFileSystem, "_open", failing)
    with pytest.raises(BundleError, match=r"cannot read shard memory://.*part-1\.parquet, row group 0: .*\w") as raised:
        list(loader_of(table, 0, 1, 8).epoch(0))
    assert raised.value.__cause__ is error
    assert live(list(loader_of(table, 0, 1, 8, on_bad_shard="skip").epoch(0))) == Counter({*range(30), *range(60, 90)})
    assert "part-1.parquet, row group 0" in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_shard_can_be_skipped_and_counted_without_changing_the_steps(
    tmp_path: Path, fault: Any, world: int, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_table(f"file://{tmp_path}", [30, 30, 30, 30])
    fault(tmp_path / "part-1.parquet")
    loaders = [loader_of(table, rank, world, 8, window=1, on_bad_shard="skip") for rank in range(world)]
    for epoch in (0, 1):
        parts = [list(loader.epoch(epoch)) for loader in loaders]
        assert {len(part) for part in parts} == {loaders[0].steps(epoch)} == {steps_per_epoch([(0, 120)], 8, world)}
        assert live([batch for part in parts for batch in part]) == Counter(set(range(120)) - set(range(30, 60)))
        assert sum(loader.skipped_rows for loader in loaders) == 30 * (epoch + 1)
    told = capsys.readouterr().out.replace("\n", "")
    assert all(told.count(f"rank {rank}: skipped shard") <= 1 for rank in range(world))
    assert "part-1.parquet" in told


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("again", [1, 2])
def test_rows_skipped_before_a_kill_are_counted_once_after_it_on_any_number_of_ranks(tmp_path: Path, world: int, again: int) -> None:
    table = write_table(f"file://{tmp_path}", [30, 30, 30, 30])
    remove(tmp_path / "part-1.parquet")
    killed = [loader_of(table, rank, world, 8, on_bad_shard="skip") for rank in range(world)]
    streams = [loader.epoch(0) for loader in killed]
    seen = [next(stream) for stream in streams for _ in range(3)]
    lost = sum(loader.skipped_rows for loader in killed)
    assert lost == len(seen) * 8 - sum(live(seen).values()), "what is read ahead does not count"
    states = [json.loads(json.dumps(loader.state_dict(lost))) for loader in killed]
    assert all(state == states[0] for state in states)
    resumed = [loader_of(table, rank, again, 8, on_bad_shard="skip") for rank in range(again)]
    for loader in resumed:
        loader.load_state_dict(states[0])
    assert sum(loader.skipped_rows for loader in resumed) == lost
    for loader in resumed:
        list(loader.epoch(0))
    assert sum(loader.skipped_rows for loader in resumed) == 30
    for loader in resumed:
        list(loader.epoch(1))
    assert sum(loader.skipped_rows for loader in resumed) == 60


def test_a_state_of_before_skipped_rows_were_kept_loads_with_none(tmp_path: Path) -> None:
    table = write_table(f"file://{tmp_path}", [30])
    state = loader_of(table, 0, 1, 8).state_dict()
    del state["skipped_rows"]
    loader = loader_of(table, 0, 1, 8)
    loader.load_state_dict(state)
    assert loader.skipped_rows == 0


def test_skipping_ends_when_nothing_can_be_read(tmp_path: Path) -> None:
    table = write_table(f"file://{tmp_path}", [5, 5])
    for file in tmp_path.iterdir():
        truncate(file)
    with pytest.raises(BundleError, match="none of 2 shards can be read"):
        list(loader_of(table, 0, 1, 4, on_bad_shard="skip").epoch(0))


def test_shards_are_read_by_any_fsspec_url() -> None:
    table = write_table(f"memory://bucket/{uuid.uuid4().hex}", [7, 9, 4])
    assert run(table, None, 2, 4, None)[0] == Counter(range(20))


def test_no_more_than_two_windows_of_files_are_asked_for_before_the_first_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = loader_module.read_files

    def counting(uris: list[str], *rest: Any) -> Generator[Any, None, None]:
        for uri, columns in zip(uris, real(uris, *rest), strict=True):
            asked.append(uri)
            yield columns

    monkeypatch.setattr(loader_module, "read_files", counting)
    stream = loader_of(write_table(f"file://{tmp_path}", [64] * 30), 0, 1, 8, window=3).epoch(0)
    for _ in range(10):
        next(stream)
    assert len(asked) <= 6
    stream.close()
