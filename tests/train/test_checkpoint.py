"""Checkpoints: what goes in comes out, a torn one is passed over, a foreign one refused, and old ones go."""

from __future__ import annotations

import errno
import json
import multiprocessing
import pickle
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader, FsspecWriter

from esans.errors import ConfigError
from esans.failures import caused_by_io
from esans.train.checkpoint import Checkpoints
from esans.train.dcp import CheckpointError, MetadataUnpickler
from esans.train.state import empty_tensors, pack, unpack

CONFIG = {"seed": 0, "train": {"batch_size": 32, "negatives": [{"sampler": "easy"}]}}


def state_of(number: float) -> dict[str, Any]:
    return {
        "module": {
            "weight": torch.full((3, 2), number),
            "count": torch.tensor(7),
            "none": torch.zeros(0, 4),
            "half": torch.ones(2).bfloat16(),
        },
        "optimizer": {"state": {0: {"step": torch.tensor(2.0)}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999), "params": [0]}]},
        "progress": {"best": float("-inf"), "records": [{"loss": 0.1 + 0.2}], "watch": None},
    }


def checkpoints(folder: Path, **keys: Any) -> Checkpoints:
    return Checkpoints(folder.as_uri() + "/checkpoints", **{"config": CONFIG, **keys})


def same(one: Any, two: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(two) and len(one) == len(two) and all(map(same, one, two))
    return bool(one == two)


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
tensors = st.builds(torch.tensor, st.lists(st.floats(-1, 1), max_size=3))
states = st.recursive(
    plain | tensors,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(state=states)
def test_any_state_of_tensors_and_plain_values_survives_json(state: Any) -> None:
    parts, skeleton = pack(state)
    read = json.loads(json.dumps(skeleton))
    assert {name: (value.shape, value.dtype) for name, value in empty_tensors(read).items()} == {
        name: (value.shape, value.dtype) for name, value in parts.items()
    }
    assert same(unpack(read, parts), state)


def test_a_state_with_anything_else_is_refused_by_its_place() -> None:
    with pytest.raises(TypeError, match=r"state\.a\.1: a checkpoint holds tensors and plain values, not a set"):
        pack({"a": [0, {1}]})


@pytest.mark.parametrize("background", [True, False])
def test_what_is_saved_is_loaded_though_training_went_on_meanwhile(tmp_path: Path, background: bool) -> None:
    state = state_of(1.5)
    kept = checkpoints(tmp_path, background=background)
    assert kept.load() is None
    uri = kept.save(state, 12)
    state["module"]["weight"].zero_()
    kept.wait()
    assert uri.endswith("/checkpoints/step-000000012")
    assert same(checkpoints(tmp_path).load(), state_of(1.5))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000012"], "nothing half-written is left"


@pytest.mark.parametrize("file", ["manifest.json", "state.json", ".metadata", "__0_0.distcp"])
@pytest.mark.parametrize("harm", ["truncate", "flip", "remove"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path, file: str, harm: str) -> None:
    said: list[str] = []
    kept = checkpoints(tmp_path, background=False, say=said.append)
    for step in (1, 2):
        kept.save(state_of(step), step)
    path = tmp_path / "checkpoints" / "step-000000002" / file
    data = path.read_bytes()
    middle = len(data) // 2
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes(data[:middle] if harm == "truncate" else data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    assert same(kept.load(), state_of(1))
    assert len(said) == 1
    assert "step-000000002" in said[0]
    assert said[0].endswith("; the checkpoint before it is taken")
    kept.save(state_of(3), 2)
    assert same(kept.load(), state_of(3)), "the damaged one is replaced"


def test_a_checkpoint_of_another_config_is_refused_with_the_difference(tmp_path: Path) -> None:
    checkpoints(tmp_path, background=False).save(state_of(1), 1)
    other = {"seed": 0, "train": {"batch_size": 64, "negatives": [{"sampler": "easy"}], "epochs": 3}}
    with pytest.raises(ConfigError, match=r"step-000000001 is of another config") as refused:
        checkpoints(tmp_path, config=other).load()
    assert str(refused.value).splitlines()[1:] == [
        "  train.batch_size: 32 there, 64 here",
        "  train.epochs: 'not set' there, 3 here",
    ]


def test_a_folder_that_this_project_did_not_write_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "step-000000001"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"format": "another"}')
    with pytest.raises(CheckpointError, match="is not a checkpoint that this project wrote"):
        checkpoints(tmp_path).load()


def test_metadata_that_names_a_foreign_function_is_not_unpickled(tmp_path: Path) -> None:
    import io

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "touched",)

    with pytest.raises(CheckpointError, match="which this project never writes"):
        MetadataUnpickler(io.BytesIO(pickle.dumps(Evil()))).load()
    assert not (tmp_path / "touched").exists()


def test_the_latest_and_the_best_stay(tmp_path: Path) -> None:
    kept = checkpoints(tmp_path, keep=2)
    for step in range(1, 8):
        kept.save(state_of(step), step, best=step in (1, 3))
    kept.wait()
    assert kept.names() == ["step-000000003", "step-000000006", "step-000000007"]


def test_a_store_without_rename_has_a_checkpoint_once_its_manifest_is_there() -> None:
    said: list[str] = []
    kept = Checkpoints("memory://run/checkpoints", CONFIG, background=False, say=said.append)
    kept.save(state_of(1), 1)
    kept.save(state_of(2), 2)
    kept.filesystem.rm(f"{kept.path}/step-000000002/manifest.json")
    assert same(kept.load(), state_of(1))
    assert "has no manifest.json: it was never finished" in said[0]


NO_RENAME = pytest.mark.parametrize("rename", [True, False], ids=["with rename", "without rename"])


def store(folder: Path, rename: bool, **keys: Any) -> Checkpoints:
    """Checkpoints in a folder, or in a store that has no rename."""
    uri = folder.as_uri() + "/checkpoints" if rename else f"memory:/{folder}/checkpoints"
    return Checkpoints(uri, CONFIG, background=False, **keys)


def left_unfinished(kept: Checkpoints, step: int) -> None:
    """A folder as a writer leaves it that is killed before the manifest, on a store without rename."""
    kept.filesystem.makedirs(f"{kept.path}/step-{step:09d}", exist_ok=True)
    kept.filesystem.pipe_file(f"{kept.path}/step-{step:09d}/.metadata", b"half")


@NO_RENAME
@pytest.mark.parametrize("loads", [True, False])
def test_a_folder_that_a_killed_writer_left_pushes_no_checkpoint_out(tmp_path: Path, rename: bool, loads: bool) -> None:
    kept = store(tmp_path, rename, keep=1)
    kept.save(state_of(2), 2000)
    left_unfinished(kept, 3000)
    if loads:
        assert same(kept.load(), state_of(2))
        assert kept.names() == ["step-000002000"]
    kept.save(state_of(3), 2345)
    assert kept.names() == ["step-000002345"]
    assert same(kept.load(), state_of(3))


def test_a_damaged_checkpoint_pushes_out_none_that_comes_after_the_one_before_it(tmp_path: Path) -> None:
    kept = store(tmp_path, True, keep=1, say=lambda _: None)
    kept.save(state_of(3), 3000)
    (tmp_path / "checkpoints" / "step-000003000" / "state.json").write_text("torn")
    kept._retain = lambda _: None  # type: ignore[method-assign]
    kept.save(state_of(2), 2000)
    del kept._retain
    assert same(kept.load(), state_of(2))
    kept.save(state_of(4), 2345)
    assert same(kept.load(), state_of(4))
    assert kept.names() == ["step-000002345"]


def test_the_checkpoint_just_written_stays_whatever_its_number(tmp_path: Path) -> None:
    kept = store(tmp_path, True, keep=1)
    for step in (5, 3):
        kept.save(state_of(step), step)
    assert "step-000000003" in kept.names()


@NO_RENAME
def test_a_writer_killed_in_the_first_checkpoint_leaves_nothing_and_training_starts_anew(tmp_path: Path, rename: bool) -> None:
    said: list[str] = []
    kept = store(tmp_path, rename, say=said.append)
    left_unfinished(kept, 1000)
    assert kept.load() is None
    assert kept.names() == []
    assert len(said) == 1
    assert said[0].endswith("step-000001000 has no manifest.json: it was never finished; training starts anew")


def test_where_no_checkpoint_is_whole_training_does_not_start_anew_in_silence(tmp_path: Path) -> None:
    kept = store(tmp_path, True)
    for step in (1, 2):
        kept.save(state_of(step), step)
        (tmp_path / "checkpoints" / f"step-{step:09d}" / "state.json").write_text("torn")
    expected = "step-000000002/state.json is missing or not what its checksum says, and no other checkpoint is whole. Bring its files"
    with pytest.raises(CheckpointError, match=expected):
        kept.load()
    assert len(kept.names()) == 2, "what may be had back is not removed"


def test_what_is_being_written_is_not_taken_for_what_a_killed_writer_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = checkpoints(tmp_path)
    slow = FsspecWriter.write_data

    def late(*args: Any) -> Any:
        time.sleep(0.5)
        return slow(*args)

    monkeypatch.setattr(FsspecWriter, "write_data", late)
    kept.save(state_of(1), 1)
    assert same(kept.load(), state_of(1))


def test_an_error_of_the_writing_thread_is_raised_at_the_next_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = checkpoints(tmp_path)
    monkeypatch.setattr(kept, "_retain", lambda _: 1 / 0)
    kept.save(state_of(1), 1)
    with pytest.raises(CheckpointError, match="could not be written: division by zero"):
        kept.save(state_of(2), 2)


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("background", [True, False])
def test_a_full_disk_is_an_error_of_ours_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, background: bool) -> None:
    kept = checkpoints(tmp_path, background=background)
    monkeypatch.setattr(FsspecWriter, "write_data", full_disk)
    with pytest.raises(CheckpointError, match=r"could not be written: \[Errno 28\] No space left on device$") as told:
        kept.save(state_of(1), 1)
        kept.wait()
    assert caused_by_io(told.value)


def test_a_checkpoint_that_the_store_does_not_give_is_an_error_of_ours_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = checkpoints(tmp_path, background=False)
    kept.save(state_of(1), 1)
    monkeypatch.setattr(FsspecReader, "read_data", full_disk)
    with pytest.raises(CheckpointError, match=r"step-000000001 cannot be read: \[Errno 28\] No space left on device$") as told:
        kept.load()
    assert caused_by_io(told.value)


def test_a_stop_while_a_checkpoint_is_read_stays_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = checkpoints(tmp_path, background=False)
    kept.save(state_of(1), 1)

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FsspecReader, "read_data", stopped)
    with pytest.raises(KeyboardInterrupt):
        kept.load()


def load_on_two_ranks(rank: int, folder: str, told: Any) -> None:
    """What a rank is told when the store fails rank 0 while it looks for checkpoints."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    kept = checkpoints(Path(folder), group=dist.new_group(backend="gloo", timeout=timedelta(seconds=30)))
    if rank == 0:
        kept.names = full_disk  # type: ignore[method-assign, assignment]
    try:
        kept.load()
    except CheckpointError as error:
        told.put((str(error), caused_by_io(error)))
    dist.destroy_process_group()


@pytest.mark.slow
def test_all_ranks_are_told_what_the_first_met_in_the_store(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    ranks = [context.Process(target=load_on_two_ranks, args=(rank, str(tmp_path), told)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
        process.kill()
    (first, second) = (told.get(timeout=1) for _ in ranks)
    assert first == second
    assert first[0].endswith("checkpoints: cannot be read: [Errno 28] No space left on device")
    assert first[1]
