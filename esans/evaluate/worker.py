"""One evaluating process: what a rank does from start to end. Started by esans.launch in any of its ways."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import fsspec
import torch
from torch import Tensor

from esans.bundle import Bundle
from esans.config import build
from esans.errors import BundleError
from esans.evaluate.config import EvaluateConfig
from esans.evaluate.users import evaluate_users
from esans.heartbeat import Heartbeat
from esans.launch import Process, Spec, joined, watched
from esans.model.files import load
from esans.progress import Bar
from esans.retrieval.encode import Towers, encode_catalogue, one_thread
from esans.retrieval.evaluation import Catalogue, Evaluation
from esans.retrieval.item_columns import read_cuts
from esans.retrieval.per_user import PerUserFile
from esans.retrieval.ragged import Ragged
from esans.retrieval.slices import Slices
from esans.retrieval.users import UserBatch
from esans.uri import join

WORK = "esans.evaluate.worker:run_worker"
_COUNTED = "counted.pt"


@dataclass
class EvaluateSpec(Spec):
    """Everything a worker needs, as JSON values: it may start on another host."""

    config: dict[str, Any]
    model: str
    """URI of a bundle with a folder `model`."""
    prepare: str
    """URI of the prepare bundle."""
    splits: list[str]
    method: str
    """As in the `per_user` table."""
    scratch_uri: str
    """Where rank 0 leaves what was counted."""
    per_user_uri: str = ""
    """Folder of the `per_user` table; empty: no rows by user."""


@dataclass(frozen=True)
class Counted:
    """An evaluation, and the seconds that ranking took the slowest part of the users: without loading and encoding the catalogue."""

    evaluation: Evaluation
    seconds: float

    @property
    def users_per_second(self) -> float:
        """Users ranked by all processes together in a second."""
        return self.evaluation.overall.users / max(self.seconds, 1e-9)


def run_worker(spec_json: str) -> None:
    """Rank as the rank that the environment names (RANK, WORLD_SIZE), or alone."""
    spec = EvaluateSpec.parse(spec_json)
    config = build(EvaluateConfig, spec.config)
    with joined(config.launch, "evaluate.launch") as process, watched(config.launch, process, spec.scratch_uri, "evaluation") as heartbeat:
        evaluate_rank(spec, config, process, heartbeat)


def evaluate_rank(spec: EvaluateSpec, config: EvaluateConfig, process: Process, heartbeat: Heartbeat) -> None:
    """Rank the users of this process; rank 0 writes what all of them counted.

    Raises:
        BundleError: the model knows items that the prepare bundle does not.
    """
    heartbeat.at("reading of the inputs", 0)
    prepare, rank, device = Bundle.open(spec.prepare), process.rank, process.device
    with Bundle.open(spec.model).local("model") as folder:
        model: Towers = load(folder, device)
    catalogue = offered(model, Catalogue.read(prepare), spec)
    slices = Slices.build(catalogue.counts, config.metrics, read_cuts(prepare, config.slices, config.slice_values))
    heartbeat.at("encoding of the catalogue", 0)
    with one_thread():
        vectors = encode_catalogue(model, device, size=catalogue.num_items)
    states: dict[str, Any] = {}
    with PerUserFile(spec.per_user_uri, config.metrics, rank) if spec.per_user_uri else nullcontext() as per_user:
        for split in spec.splits:
            keep = per_user.keeper(spec.method, split) if per_user is not None else None
            total = -(-int(prepare.facts.get(f"num_{split}_users", 0)) // process.world_size)
            with Bar(f"{split} users", total, "users", show=rank == 0) as bar:
                started = time.perf_counter()
                evaluation = evaluate_users(
                    model,
                    vectors,
                    prepare.table("histories"),
                    split,
                    catalogue,
                    config.metrics,
                    slices=slices,
                    rank=rank,
                    world_size=process.world_size,
                    user_batch=config.user_batch,
                    item_chunk=config.item_chunk,
                    device=device,
                    on_batch=_Steps(split, heartbeat, bar, keep),
                    before_reduce=lambda split=split: heartbeat.at(f"adding up of {split} over the ranks", 0, waits=True),  # type: ignore[misc]
                )
                states[split] = {**evaluation.state(), "seconds": time.perf_counter() - started}
    if rank == 0:
        _write(spec.scratch_uri, states)


def offered(model: Towers, catalogue: Catalogue, spec: EvaluateSpec) -> Catalogue:
    """The catalogue as a model can offer it: items that came after its training can't be found, as in serving it."""
    if model.num_items > catalogue.num_items:
        raise BundleError(
            f"the model of {spec.model} knows {model.num_items:,} items, and {spec.prepare} holds {catalogue.num_items:,}: "
            "it was trained on another or a later prepare bundle. Take that one, or one built on it (prepare.previous)."
        )
    return replace(catalogue, available=catalogue.available & (torch.arange(catalogue.num_items) < model.num_items))


def read_counted(spec: EvaluateSpec, config: EvaluateConfig) -> dict[str, Counted]:
    """What rank 0 left in the scratch folder, by split."""
    prepare = Bundle.open(spec.prepare)
    with fsspec.open(join(spec.scratch_uri, _COUNTED), "rb") as stream:
        states = torch.load(stream, map_location="cpu", weights_only=True)
    catalogue = Catalogue.read(prepare)
    slices = Slices.build(catalogue.counts, config.metrics, read_cuts(prepare, config.slices, config.slice_values))

    def take(state: Mapping[str, Tensor]) -> Evaluation:
        mine = replace(catalogue, available=state["available"])
        return Evaluation(mine, config.metrics, slices).take(state)

    return {split: Counted(take(state), float(state["seconds"])) for split, state in states.items()}


def _write(scratch_uri: str, states: Mapping[str, Any]) -> None:
    filesystem, path = fsspec.core.url_to_fs(scratch_uri)
    filesystem.makedirs(path, exist_ok=True)
    with filesystem.open(f"{path}/{_COUNTED}", "wb") as stream:
        torch.save(dict(states), stream)


class _Steps:
    """What happens after each batch of users: a sign of life, the bar, and rows by user where they are kept."""

    def __init__(self, split: str, heartbeat: Heartbeat, bar: Bar, keep: Callable[[UserBatch, Ragged], None] | None) -> None:
        self._split, self._heartbeat, self._bar, self._keep = split, heartbeat, bar, keep
        self._batches = self._users = 0

    def __call__(self, batch: UserBatch, ranks: Ragged) -> None:
        self._batches, self._users = self._batches + 1, self._users + len(batch)
        self._heartbeat.at(f"ranking of {self._split}", self._batches)
        self._bar.update(self._users)
        if self._keep is not None:
            self._keep(batch, ranks)
