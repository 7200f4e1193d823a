"""Two processes on a core each against one on one core, over gloo, with batches in memory."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks.training import breakdown
from benchmarks.training.compare import EPOCH
from benchmarks.training.setting import METHODS, MadeUp, batches_of, config_of, trainer_of
from esans.bundle import Bundle
from esans.negatives.base import Batch
from esans.train.trainer import Trainer

WARM_UP, KEPT = 4, 8


@dataclass(frozen=True)
class Setting:
    """One way to train."""

    processes: int
    rank_batch: int
    """Examples of a step in each process."""
    gather: bool = True
    """Whether the processes' positives are in-batch negatives for all of them."""
    apart: bool = False
    """Processes that know nothing of each other: what the machine allows."""
    items: int = 0
    """Of a made-up catalogue, with sparse tables, in place of the data set's."""

    @property
    def world_size(self) -> int:
        """Processes that train together."""
        return 1 if self.apart else self.processes


@dataclass(frozen=True)
class Outcome:
    """What came out of one setting, medians over its runs."""

    examples_per_second: float
    parts: Mapping[str, float]
    """Milliseconds of the first process's step by part."""


def measure(inputs: Mapping[str, Bundle], settings: Sequence[Setting], steps: int, rounds: int) -> dict[Setting, Outcome]:
    """Every setting, in turns."""
    uris = {name: bundle.uri for name, bundle in inputs.items()}
    found: dict[Setting, list[tuple[float, dict[str, float]]]] = {setting: [] for setting in settings}
    for _ in range(rounds):
        for setting, runs in found.items():
            runs.append(_run(uris, setting, steps))
    return {
        setting: Outcome(
            statistics.median(speed for speed, _ in runs),
            {name: statistics.median(parts[name] for _, parts in runs) for name in runs[0][1]},
        )
        for setting, runs in found.items()
    }


def _run(uris: Mapping[str, str], setting: Setting, steps: int) -> tuple[float, dict[str, float]]:
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    together = mp.get_context("spawn").Barrier(setting.processes)
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank, (setting, dict(uris), steps, folder, together), nprocs=setting.processes)  # type: ignore[no-untyped-call]
        found = [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(setting.processes)]
    return sum(speed for speed, _ in found), found[0][1]


def _rank(rank: int, setting: Setting, uris: dict[str, str], steps: int, folder: str, together: Any) -> None:
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
    torch.set_num_threads(1)
    if not setting.apart:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=setting.processes)
    trainer, batches = _prepare(rank, setting, uris)
    for place in range(WARM_UP):
        trainer.train_step(batches[place % len(batches)], EPOCH, place, steps, False)
    together.wait()
    started = time.perf_counter()
    for place in range(steps):
        trainer.train_step(batches[place % len(batches)], EPOCH, place, steps, False)
    together.wait()
    speed = steps * setting.rank_batch / (time.perf_counter() - started)
    torch.save((speed, breakdown.parts(trainer, batches, 2)), Path(folder) / f"{rank}.pt")
    together.wait()
    if not setting.apart:
        dist.destroy_process_group()


def _prepare(rank: int, setting: Setting, uris: Mapping[str, str]) -> tuple[Trainer, list[Batch]]:
    """The trainer of `esans`, and its batches in memory."""
    groups = [group | ({"gather": setting.gather} if group["sampler"] == "in_batch" else {}) for group in METHODS["esans"]]
    keys: dict[str, Any] = {"launch": {"processes": setting.world_size, "threads": 1}}
    if setting.items:
        keys["optimizer"] = {"tables": "sparse_adam"}
    config = config_of(groups, setting.rank_batch * setting.world_size, **keys)
    if setting.items:
        world = MadeUp(setting.items, setting.rank_batch, "cpu", rank % setting.world_size, setting.world_size)
        return world.trainer(config), world.batches(KEPT)
    inputs = {name: Bundle.open(uri) for name, uri in uris.items()}
    trainer = trainer_of(config, inputs, rank % setting.world_size, setting.world_size)
    return trainer, batches_of(trainer, KEPT)
