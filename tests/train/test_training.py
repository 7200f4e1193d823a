"""Training in real processes: it learns, resumes as if never stopped, and two ranks agree (contracts 5 and 7)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from esans import launch as processes
from esans.bundle import Bundle
from esans.config import build, to_dict
from esans.model.files import load
from esans.tracking import TrackingConfig, start_run
from esans.train import lineage
from esans.train.checkpoint import Checkpoints
from esans.train.config import TrainConfig
from esans.train.launch import TrainingFailed, launch
from esans.train.worker import WorkerSpec, run_worker
from tests.train import faults

GROUPS = [{"sampler": "in_batch"}, {"sampler": "easy"}, {"sampler": "hard"}]


def config_of(**keys: Any) -> TrainConfig:
    config = build(
        TrainConfig,
        {
            "negatives": GROUPS,
            "batch_size": 32,
            "epochs": 3,
            "patience": 0,
            "log_every": 5,
            "model": {"dim": 8, "hidden": 16},
            "optimizer": {"learning_rate": 0.01, "warmup_steps": 3},
            "launch": {"threads": 1},
            **keys,
        },
    )
    config.resolve_groups()
    return config


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory, new_store: Callable[[Path], str]) -> str:
    return new_store(tmp_path_factory.mktemp("mlflow"))


def spec_of(folder: Path, inputs: dict[str, Bundle], config: TrainConfig, tracking: str) -> WorkerSpec:
    with start_run(TrackingConfig(uri=tracking, system_metrics=False), str(folder), "train") as run:
        return WorkerSpec(
            config=to_dict(config),
            inputs={name: bundle.uri for name, bundle in inputs.items()},
            model_uri=str(folder / "model"),
            scratch_uri=str(folder / "scratch"),
            seed=0,
            run_id=run.run_id,
            tracking_uri=run.tracking_uri,
        )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load(folder / "model").state_dict()


def records(folder: Path) -> list[dict[str, float]]:
    return list(json.loads((folder / "scratch" / "result.json").read_text())["records"])


def test_training_learns_what_is_there_and_logs_to_one_run(
    make_inputs: Callable[..., dict[str, Bundle]], tmp_path: Path, tracking: str
) -> None:
    from mlflow import MlflowClient

    spec = spec_of(tmp_path / "a", make_inputs(), config_of(epochs=6, profile_steps=2), tracking)
    run_worker(spec.dump())
    history = records(tmp_path / "a")
    assert history[-1]["loss"] < history[0]["loss"]
    # Users stay in their primary of 12 items, 10 of which they have seen: chance would put the target among the first ten in 1 of 5 cases.
    assert history[-1]["recall@10"] > 0.6
    client = MlflowClient(tracking)
    logged = client.get_run(spec.run_id).data.metrics
    assert logged["loss"] == pytest.approx(history[-1]["loss"])
    assert {"share_in_batch", "share_easy_virtual", "share_hard_virtual", "temperature", "data_wait_share", "resident_gb"} <= set(logged)
    assert len(client.get_metric_history(spec.run_id, "recall_at_50")) == 6
    kept = Path(client.download_artifacts(spec.run_id, "profile", str(tmp_path)))
    operators = (kept / "operators.txt").read_text()
    assert operators.startswith("2 steps")
    assert {"backward", "terms: easy"} <= {event.get("name") for event in json.loads((kept / "trace.json").read_text())["traceEvents"]}


def test_the_same_seed_gives_the_same_weights(make_inputs: Callable[..., dict[str, Bundle]], tmp_path: Path, tracking: str) -> None:
    inputs = make_inputs()
    for name in ("a", "b"):
        run_worker(spec_of(tmp_path / name, inputs, config_of(), tracking).dump())
    one, two = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(one[name], two[name]) for name in one)


INTERRUPTED = """
import os, signal, sys
from esans.train import trainer
from esans.train.worker import run_worker
step, number = int(sys.argv[1]), getattr(signal, sys.argv[2])
kept = trainer.Trainer.train_step
def stopped(self, *args):
    if self.progress.step == step:
        os.kill(os.getpid(), number)
    return kept(self, *args)
trainer.Trainer.train_step = stopped
run_worker(open(sys.argv[3]).read())
"""


def interrupted(spec: WorkerSpec, folder: Path, step: int, signal: str) -> subprocess.CompletedProcess[str]:
    """Train in a process of its own that gets a signal before a step."""
    (folder / "spec.json").write_text(spec.dump())
    command = [sys.executable, "-c", INTERRUPTED, str(step), signal, str(folder / "spec.json")]
    return subprocess.run(command, cwd=Path.cwd(), check=False, timeout=240, text=True, capture_output=True)


def same_run(one: Path, two: Path) -> None:
    """Bitwise equal weights, and equal records but for the time they took."""
    first, second = weights(one), weights(two)
    assert all(torch.equal(first[name], second[name]) for name in first)
    kept = [[{key: value for key, value in record.items() if "second" not in key} for record in records(folder)] for folder in (one, two)]
    assert kept[0] == kept[1]


def test_sigterm_leaves_a_checkpoint_of_the_step_it_came_in(
    make_inputs: Callable[..., dict[str, Bundle]], tmp_path: Path, tracking: str
) -> None:
    inputs = make_inputs()
    config = config_of(checkpoint={"every_steps": 0}, epochs=2)
    run_worker(spec_of(tmp_path / "whole", inputs, config, tracking).dump())
    spec = spec_of(tmp_path / "stopped", inputs, config, tracking)
    left = interrupted(spec, tmp_path, 5, "SIGTERM")
    assert left.returncode == 1
    assert "training stopped on SIGTERM after step 6; its checkpoint is in " in left.stderr
    assert [path.name for path in (tmp_path / "stopped" / "scratch" / "checkpoints").iterdir()] == ["step-000000006"]
    run_worker(spec.dump())
    same_run(tmp_path / "whole", tmp_path / "stopped")


def test_the_record_of_an_epoch_counts_what_was_skipped_before_a_restart(
    make_inputs: Callable[..., dict[str, Bundle]], tmp_path: Path, tracking: str
) -> None:
    inputs = make_inputs()
    examples = inputs["shards"].table("examples")
    Path(examples.file_uris[2].removeprefix("file://")).write_bytes(b"no Parquet")
    config = config_of(negatives=[{"sampler": "uniform", "num_negatives": 8}], epochs=2, loader={"on_bad_shard": "skip"})
    spec = spec_of(tmp_path / "stopped", inputs, config, tracking)
    # In the second epoch: the first one's rows are skipped for certain.
    assert "training stopped on SIGTERM after step 16" in interrupted(spec, tmp_path, 15, "SIGTERM").stderr
    run_worker(spec.dump())
    lost = examples.files[2].rows
    assert [record["skipped_rows"] for record in records(tmp_path / "stopped")] == [lost, 2 * lost]


@pytest.mark.parametrize(("groups", "on_bad_shard"), [([{"sampler": "uniform", "num_negatives": 8}], "skip"), (GROUPS, "error")])
def test_two_processes_take_the_same_steps_and_agree_on_the_metrics_and_on_what_a_bad_shard_cost(
    make_inputs: Callable[..., dict[str, Bundle]], tmp_path: Path, tracking: str, groups: list[dict[str, Any]], on_bad_shard: str
) -> None:
    inputs = make_inputs(examples=397)
    keys = {"launch": {"processes": 2, "threads": 1, "mode": "torchrun"}, "loader": {"on_bad_shard": on_bad_shard}}
    config = config_of(negatives=groups, epochs=2, **keys)
    examples = inputs["shards"].table("examples")
    if on_bad_shard == "skip":
        Path(examples.file_uris[2].removeprefix("file://")).write_bytes(b"no Parquet")
    spec = spec_of(tmp_path / "two", inputs, config, tracking)
    launch(spec.dump(), config.launch, spec.scratch_uri, None)
    two = records(tmp_path / "two")
    assert [record["step"] for record in two] == [13, 26], "397 examples in steps of 32, whatever the ranks hold"
    lost = examples.files[2].rows
    assert [record.get("skipped_rows") for record in two] == ([lost, 2 * lost] if on_bad_shard == "skip" else [None, None])
    checkpoints = Checkpoints(str(tmp_path / "two" / "scratch" / "checkpoints"), {})
    kept = checkpoints._read(checkpoints.names()[-1], None)["loader"]["skipped_rows"]
    assert kept == (2 * lost if on_bad_shard == "skip" else 0), "of both ranks, though the first one's state is kept"
    # The model that two ranks trained, ranked by one process: the same integers, hence the same metrics.
    from esans.train.validation import ValidationUsers, validate

    model = load(tmp_path / "two" / "model")
    users = ValidationUsers.load(inputs["prepare"], 20_000, 0, 1)
    best = max(two, key=lambda record: record["recall@50"])
    alone = validate(model, users, torch.device("cpu"))
    assert {name: best[name] for name in alone} == alone


def test_sparks_torch_distributor_runs_the_same_worker_and_the_job_submits_it_again_after_a_kill(
    make_inputs: Callable[..., dict[str, Bundle]], tmp_path: Path, tracking: str, spark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    elastic = {"processes": 2, "threads": 1, "mode": "spark", "max_restarts": 1}
    config = config_of(launch=elastic, epochs=1, checkpoint={"every_steps": 4, "record_steps": True})
    inputs = make_inputs()
    spec = spec_of(tmp_path / "spark", inputs, config, tracking)
    monkeypatch.setenv(faults.VARIABLE, faults.plan(tmp_path, (1, 7, "SIGKILL")))
    # Where the workers find the faults.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    processes.launch(faults.WORK, spec.dump(), config.launch, spec.scratch_uri, spark, what="training")
    assert [record["step"] for record in records(tmp_path / "spark")] == [13]
    assert load(tmp_path / "spark" / "model").num_items == 60
    starts = lineage.read(spec.scratch_uri)
    assert sorted(start.rank for start in starts) == [0, 0, 1, 1]
    assert lineage.lost_and_repeated(starts, 13, lineage.digests_of(inputs["shards"].table("examples"))) == (0, 0)


def test_a_failing_rank_fails_the_launch(make_inputs: Callable[..., dict[str, Bundle]], tmp_path: Path, tracking: str) -> None:
    config = config_of(launch={"processes": 2, "threads": 1})
    spec = spec_of(tmp_path / "broken", make_inputs(), config, tracking)
    spec.inputs["shards"] = str(tmp_path / "nowhere")
    with pytest.raises(TrainingFailed, match="training ended with exit code 1"):
        launch(spec.dump(), config.launch, spec.scratch_uri, None)


OUTER = """
import sys
from esans.config import build
from esans.train.config import TrainConfig
from esans.train.launch import follow_if_not_leader, launch, release_followers
from esans.train.worker import WorkerSpec
text = open(sys.argv[1]).read()
config = build(TrainConfig, WorkerSpec.parse(text).config)
if not follow_if_not_leader(config):
    try:
        if sys.argv[2] == "train":
            launch(text, config.launch, WorkerSpec.parse(text).scratch_uri, None)
    finally:
        release_followers(config)
"""


def test_a_job_inside_an_outer_torchrun_joins_it_and_sends_the_others_home_when_nothing_is_to_do(
    make_inputs: Callable[..., dict[str, Bundle]], tmp_path: Path, tracking: str
) -> None:
    spec = spec_of(tmp_path / "outer", make_inputs(), config_of(launch={"processes": 2, "threads": 1}, epochs=1), tracking)
    (tmp_path / "spec.json").write_text(spec.dump())
    (tmp_path / "outer.py").write_text(OUTER)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(tmp_path / "outer.py")]
    for work in ("nothing", "train"):
        environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
        subprocess.run([*torchrun, str(tmp_path / "spec.json"), work], check=True, timeout=240, env=environment)
        assert (tmp_path / "outer" / "scratch" / "result.json").exists() == (work == "train")
    assert [record["step"] for record in records(tmp_path / "outer")] == [13]


def test_a_world_size_that_the_config_does_not_name_is_refused(
    make_inputs: Callable[..., dict[str, Bundle]], tmp_path: Path, tracking: str
) -> None:
    from esans.errors import ConfigError

    spec = spec_of(tmp_path / "odd", make_inputs(), config_of(launch={"processes": 2}), tracking)
    with pytest.raises(ConfigError, match=r"^train\.launch\.processes = 2, but 1 processes were started: set --train\.launch\.processes=1"):
        run_worker(spec.dump())


def test_impossible_settings_are_refused_by_name() -> None:
    from esans.errors import ConfigError

    with pytest.raises(ConfigError, match=r"batch_size = 33 is not a multiple of launch\.processes = 2"):
        config_of(batch_size=33, launch={"processes": 2})
    with pytest.raises(ConfigError, match=r"launch\.mode = 'local' runs one process, but launch\.processes = 2"):
        config_of(launch={"processes": 2, "mode": "local"})
    with pytest.raises(ConfigError, match="negatives is empty"):
        config_of(negatives=[])
