"""Restarts and hangs in real processes: what is killed, stopped, asleep or astray is told by name, and training goes on without it."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from esans import launch as processes
from esans.bundle import Bundle
from esans.config import build, merge
from esans.launch import LaunchFailed
from esans.train.checkpoint import Checkpoints
from esans.train.config import TrainConfig
from esans.train.lineage import digests_of, lost_and_repeated, read
from esans.train.worker import WorkerSpec, run_worker
from tests.train import faults
from tests.train.test_training import config_of, records, same_run, spec_of

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


def launch(spec: WorkerSpec, monkeypatch: pytest.MonkeyPatch, *planned: tuple[int, int, str]) -> None:
    """Start the workers as the config of the spec says, with faults."""
    monkeypatch.setenv(faults.VARIABLE, faults.plan(Path(spec.scratch_uri).parent, *planned))
    config = build(TrainConfig, spec.config)
    processes.launch(faults.WORK, spec.dump(), config.launch, spec.scratch_uri, None, what="training")


def last_state(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the last checkpoint: weights, best weights, optimiser, guard, generators."""
    checkpoints = Checkpoints(str(folder / "scratch" / "checkpoints"), {})
    return tensors(checkpoints._read(checkpoints.names()[-1], None))


def tensors(state: Any, path: str = "") -> dict[str, torch.Tensor]:
    if isinstance(state, torch.Tensor):
        return {path: state}
    inner = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list | tuple) else ()
    return {name: tensor for key, value in inner for name, tensor in tensors(value, f"{path}.{key}").items()}


def test_a_worker_killed_at_random_steps_ends_with_the_bits_of_one_that_was_not(
    make_inputs: Callable[..., dict[str, Bundle]], tmp_path: Path, tracking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    inputs = make_inputs()
    seed = random.SystemRandom().randrange(2**32)
    steps = sorted(random.Random(seed).sample(range(1, 39), 3))
    print(f"seed {seed}: killed before steps {steps} of 39")
    # Micro-batches, falling step sizes and sparse tables, whose states all are in a checkpoint.
    optimizer = {"learning_rate": 0.01, "warmup_steps": 3, "schedule": "cosine", "tables": "adagrad"}
    keys: dict[str, Any] = {"checkpoint": {"every_steps": 4, "record_steps": True}, "accumulate": 2, "optimizer": optimizer}
    run_worker(spec_of(tmp_path / "whole", inputs, config_of(**keys), tracking).dump())
    config = config_of(**keys, launch={"threads": 1, "max_restarts": 3})
    spec = spec_of(tmp_path / "killed", inputs, config, tracking)
    launch(spec, monkeypatch, *[(0, step, "SIGKILL") for step in steps])
    same_run(tmp_path / "whole", tmp_path / "killed")
    one, two = last_state(tmp_path / "whole"), last_state(tmp_path / "killed")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    starts = read(spec.scratch_uri)
    assert len(starts) == 4
    assert lost_and_repeated(starts, 39, digests_of(inputs["shards"].table("examples"))) == (0, 0)
    # One run, and what a later start logs anew for a step is what stood there.
    losses: dict[int, set[float]] = {}
    for metric in MlflowClient(tracking).get_metric_history(spec.run_id, "step_loss"):
        losses.setdefault(metric.step, set()).add(metric.value)
    assert {len(values) for values in losses.values()} == {1}
    assert set(losses) == {epoch * 13 + step for epoch in range(3) for step in (5, 10)}


def test_two_ranks_outlive_a_kill_and_hangs_told_by_rank_and_place_but_no_error_of_ours_and_one_rank_finishes_what_they_left(
    make_inputs: Callable[..., dict[str, Bundle]],
    tmp_path: Path,
    tracking: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    inputs = make_inputs()
    keys: dict[str, Any] = {"checkpoint": {"every_steps": 3, "record_steps": True}, "epochs": 2}
    elastic = {"processes": 2, "threads": 1, "max_restarts": 9, "hang_seconds": 12}
    spec = spec_of(tmp_path / "run", inputs, config_of(**keys, launch=elastic), tracking)
    planned = [(1, 5, "SIGKILL"), (1, 8, "sleep"), (0, 11, "SIGSTOP"), (1, 17, "diverged")]
    with pytest.raises(LaunchFailed, match=r"^training ended with exit code 1; the first error of a rank stands above\.$"):
        launch(spec, monkeypatch, *planned)
    told = capfd.readouterr().err
    step_8 = r"rank 1 has been in 'reading of a batch' of step 8 for \d+ s, without entering '[a-z_ ]+' of step 8, where rank 0 has waited"
    step_11 = r"rank 0 has given no sign of life for over \d+ s \(it is stopped, .*of step 11, where rank 1 has waited"
    for expected in (step_8, step_11):
        assert re.search(f"training hangs: {expected}", told), told
    assert "error: rank 1: the loss is not finite" in told

    alone = merge(spec.config, {"launch": {"processes": 1, "max_restarts": 0}})
    run_worker(replace(spec, config=alone).dump())
    last = int(records(tmp_path / "run")[-1]["step"])
    assert lost_and_repeated(read(spec.scratch_uri), last, digests_of(inputs["shards"].table("examples"))) == (0, 0)


def test_an_error_that_comes_again_at_the_same_step_is_not_tried_a_third_time(
    make_inputs: Callable[..., dict[str, Bundle]], tmp_path: Path, tracking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = make_inputs()
    config = config_of(checkpoint={"every_steps": 4, "record_steps": True}, launch={"threads": 1, "max_restarts": 9})
    spec = spec_of(tmp_path / "bug", inputs, config, tracking)
    with pytest.raises(LaunchFailed, match="exit code 1;"):
        launch(spec, monkeypatch, *[(0, 6, "bug")] * 9)
    assert len(read(spec.scratch_uri)) == 2


def test_a_rank_killed_in_a_checkpoint_and_one_that_does_not_end_after_the_work_cost_a_start_each(
    make_inputs: Callable[..., dict[str, Bundle]],
    tmp_path: Path,
    tracking: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    elastic = {"processes": 2, "threads": 1, "max_restarts": 2, "hang_seconds": 12}
    # Not in the background: the other rank then waits in the write.
    keys: dict[str, Any] = {"checkpoint": {"every_steps": 4, "background": False, "record_steps": True}, "epochs": 1}
    spec = spec_of(tmp_path / "run", make_inputs(), config_of(**keys, launch=elastic), tracking)
    launch(spec, monkeypatch, (1, 8, faults.KILLED_IN_WRITE), (1, 0, faults.LINGERS))
    told = capfd.readouterr().err
    assert "error: rank 0: " in told, told
    assert "could not be written: " in told
    assert re.search(r"hang: rank 1 has left the work after step 13 and does not end for \d+ s", told), told
    assert [record["step"] for record in records(tmp_path / "run")] == [13]
    assert len([start for start in read(spec.scratch_uri) if start.rank == 0]) == 3
