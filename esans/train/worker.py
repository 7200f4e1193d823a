"""One training process: what a rank does from start to end. Started by esans.launch in any of its ways."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import fsspec
import torch
from torch import Tensor

from esans.bundle import Bundle
from esans.config import build
from esans.heartbeat import Heartbeat
from esans.launch import Process, Spec, joined, watched
from esans.model.files import save
from esans.model.sharded import whole_state
from esans.model.towers import TwoTower
from esans.negatives.groups import NegativeGroups
from esans.negatives.registry import build_loss, build_samplers, build_temperature, columns
from esans.negatives.tables import Catalogue
from esans.tracking import Run
from esans.train.arithmetic import uses_bf16
from esans.train.config import TrainConfig
from esans.train.inputs import build_model, load_catalogue
from esans.train.kept import keep
from esans.train.later import load_later
from esans.train.lineage import StepRecord
from esans.train.loader import Loader
from esans.train.profile import profile_steps
from esans.train.step import TrainStep
from esans.train.trainer import Trainer
from esans.train.validation import ValidationUsers
from esans.train.warm_start import Earlier, go_on
from esans.uri import join, write_text


@dataclass
class WorkerSpec(Spec):
    """Everything a worker needs, as JSON values: it may start on another host."""

    config: dict[str, Any]
    inputs: dict[str, str]
    """URIs of bundles by stage."""
    model_uri: str
    """Folder that rank 0 writes the model to."""
    scratch_uri: str
    """Folder for checkpoints and the result."""
    seed: int
    run_id: str
    tracking_uri: str
    work_dir: str = ""
    """Where waits what MLflow does not take at once; empty: in the scratch folder."""
    deliver_seconds: float = 30.0
    """As in `TrackingConfig`."""
    kept_uri: str = ""
    """File that rank 0 writes what a warm start needs to; empty: nothing is kept."""


def run_worker(spec_json: str) -> None:
    """Train as the rank that the environment names (RANK, WORLD_SIZE), or alone."""
    spec = WorkerSpec.parse(spec_json)
    config = build(TrainConfig, spec.config)
    why = ", since the world size decides which examples share a batch"
    with joined(config.launch, "train.launch", why) as process, watched(config.launch, process, spec.scratch_uri) as heartbeat:
        train_rank(spec, config, process, heartbeat)


def train_rank(spec: WorkerSpec, config: TrainConfig, process: Process, heartbeat: Heartbeat) -> None:
    """Build everything from the spec, train, and let rank 0 write model and result."""
    rank = process.rank
    heartbeat.at("reading of the inputs", 0)
    inputs = {name: Bundle.open(uri) for name, uri in spec.inputs.items()}
    with ExitStack() as last:
        # Closed after the model is written: what MLflow is still owed can wait, and is kept.
        run = last.enter_context(closing(_run(spec))) if rank == 0 else None
        log = run.metrics if run is not None else _silent
        heartbeat.at("building of the trainer", 0)
        trainer = build_trainer(config, inputs, spec.seed, rank, process.world_size, process.device, spec.scratch_uri, log)
        last.callback(trainer.gradients.close)
        trainer.heartbeat = heartbeat
        if "previous" in inputs:
            go_on(trainer, inputs, Earlier.open(inputs["previous"]))
        heartbeat.at("looking for a checkpoint", 0, process.world_size > 1)
        if config.checkpoint.record_steps:
            trainer.on_resume = lambda step: StepRecord(spec.scratch_uri, rank, process.world_size, step)
        if run is not None and config.profile_steps:
            profile_steps(trainer, config.profile_steps, run.text)
        progress = trainer.train()
        heartbeat.at("writing of the model", progress.step)
        # All ranks: rows of sharded tables come from each.
        weights = whole_state(trainer.model)
        if rank == 0:
            _write_model(trainer.model, weights, spec.model_uri)
            if spec.kept_uri:
                keep(trainer, config.keep_optimizer).write(spec.kept_uri)
            write_text(join(spec.scratch_uri, "result.json"), json.dumps({"records": progress.records, "best_epoch": progress.best_epoch}))


def build_trainer(
    config: TrainConfig,
    inputs: Mapping[str, Bundle],
    seed: int,
    rank: int,
    world_size: int,
    device: torch.device,
    scratch_uri: str,
    log: Callable[[Mapping[str, float], int], None],
    catalogue: Catalogue | None = None,
) -> Trainer:
    """The trainer of one rank, ready to start: towers, groups of negatives, examples and validation users.

    Args:
        config: resolved (`TrainConfig.resolve_groups`).
        inputs: bundles by stage: prepare, features, align, shards, and cluster where a group needs it.
        seed: of weights, order and draws.
        rank: this process.
        world_size: how many processes share the batch.
        device: where the step runs.
        scratch_uri: folder for checkpoints.
        log: takes metrics and the step.
        catalogue: what samplers know about the items, in place of what the bundles say.
    """
    # The same weights on every rank before the first step.
    torch.manual_seed(seed)
    model = build_model(config.model, inputs, device)
    if catalogue is None:
        catalogue = load_catalogue(inputs["shards"], inputs.get("cluster"), inputs.get("features"), config.model.dim)
    if catalogue.clusters is not None:
        catalogue.clusters = catalogue.clusters.to(device)
    negatives = build_negatives(config, catalogue).to(device)
    module = TrainStep(model, negatives, bf16=uses_bf16(config.precision, device), compiled=config.compile)
    # Figures of the diagnosis are those of rank 0's part of the batch.
    later = load_later(inputs["prepare"]) if rank == 0 else None
    module.negatives.later = None if later is None else later.to(device)
    examples = inputs["shards"].table("examples")
    loader = Loader(
        examples,
        rank_batch=config.batch_size // world_size,
        rank=rank,
        world_size=world_size,
        device=device,
        window_files=config.loader.window_shards,
        prefetch=config.loader.prefetch_batches,
        seed=seed,
        extra=columns(config.negatives),
        keep=config.loader.keep_in_memory,
        rows_per_epoch=config.examples_per_epoch,
        num_items=inputs["shards"].facts["num_items"],
        on_bad_shard=config.loader.on_bad_shard,
    )
    users = ValidationUsers.load(inputs["prepare"], config.validation_users, rank, world_size)
    return Trainer(config, module, loader, users, device, seed, scratch_uri, log)


def build_negatives(config: TrainConfig, catalogue: Catalogue) -> NegativeGroups:
    """The groups, loss and temperature of a resolved config, on the CPU."""
    samplers = build_samplers(config.negatives, catalogue)
    # Mappings, once resolve_groups has run.
    loss, temperature = cast(dict[str, Any], config.loss), cast(dict[str, Any], config.temperature)
    return NegativeGroups(samplers, build_loss(loss, catalogue), build_temperature(temperature, catalogue))


def _run(spec: WorkerSpec) -> Run:
    return Run(spec.run_id, spec.tracking_uri, spec.work_dir or spec.scratch_uri, spec.deliver_seconds)


def _silent(values: Mapping[str, float], step: int = 0) -> None:
    """Only rank 0 writes to MLflow (contract 7)."""


def _write_model(model: TwoTower, weights: Mapping[str, Tensor], uri: str) -> None:
    filesystem, path = fsspec.core.url_to_fs(uri)
    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder) / "model", weights)
        filesystem.makedirs(path, exist_ok=True)
        for file in (Path(folder) / "model").iterdir():
            filesystem.put_file(str(file), f"{path}/{file.name}")
