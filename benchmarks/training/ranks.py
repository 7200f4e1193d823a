"""Two processes on a core each against one on one core, over gloo, with batches in memory."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks.training.compare import EPOCH
from benchmarks.training.setting import METHODS, batches_of, config_of, trainer_of
from esans.bundle import Bundle

WARM_UP = 3


def measure(inputs: Mapping[str, Bundle], batch: int, rank_batch: int, steps: int, rounds: int) -> tuple[float, float]:
    """Examples/s of one process that takes `batch` examples a step, and of two that take `rank_batch` each; medians of runs in turns."""
    uris = {name: bundle.uri for name, bundle in inputs.items()}
    found: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for world_size, speeds in found.items():
            speeds.append(_run(uris, world_size, batch if world_size == 1 else rank_batch, steps))
    return statistics.median(found[1]), statistics.median(found[2])


def _run(uris: Mapping[str, str], world_size: int, rank_batch: int, steps: int) -> float:
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank, (world_size, dict(uris), rank_batch, steps, folder), nprocs=world_size)  # type: ignore[no-untyped-call]
        return float((Path(folder) / "speed").read_text())


def _rank(rank: int, world_size: int, uris: dict[str, str], rank_batch: int, steps: int, folder: str) -> None:
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size)
    keys: dict[str, Any] = {"launch": {"processes": world_size, "threads": 1}}
    config = config_of(METHODS["esans"], rank_batch * world_size, **keys)
    trainer = trainer_of(config, {name: Bundle.open(uri) for name, uri in uris.items()}, rank, world_size)
    batches = batches_of(trainer, 8)
    for place in range(WARM_UP + steps):
        if place == WARM_UP:
            dist.barrier()
            started = time.perf_counter()
        trainer.train_step(batches[place % len(batches)], EPOCH, place, WARM_UP + steps, False)
    dist.barrier()
    if rank == 0:
        (Path(folder) / "speed").write_text(str(steps * rank_batch * world_size / (time.perf_counter() - started)))
    dist.destroy_process_group()
