"""The loader against what the CPU trainer consumes, against a bare scan of the same columns, and its memory over many epochs.

    python -m benchmarks.loader --data ../shared/data --work data/loader [--dry-run]

All within one process and on the same shards (online_retail): ratios, not seconds. `--dry-run` enters no figures.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import torch
import yaml

from benchmarks.figures import FIGURES, record
from benchmarks.methods.data import bundles
from esans.bundle import Bundle
from esans.config import build
from esans.train.config import TrainConfig
from esans.train.loader import Loader
from esans.train.trainer import Trainer
from esans.train.worker import build_trainer

EXPERIMENT = Path(__file__).parents[1] / "conf" / "experiments" / "esans.yaml"
# The first epochs fill the allocators' pools; growth is what comes after.
SETTLING_EPOCHS = 5


def trainer_of(inputs: Mapping[str, Bundle], threads: int, scratch: str) -> Trainer:
    """The trainer of the experiment `esans`, with the defaults of everything else."""
    values: dict[str, Any] = yaml.safe_load(EXPERIMENT.read_text())["train"]
    config = build(TrainConfig, {**values, "epochs": 1, "launch": {"threads": threads}})
    config.resolve_groups()
    return build_trainer(config, inputs, 0, 0, 1, torch.device("cpu"), scratch, _silent)


def consumption(trainer: Trainer, steps: int) -> float:
    """Examples a second that the step takes when batches lie ready in memory."""
    stream = trainer.loader.epoch(0)
    batches = [next(stream) for _ in range(3)]
    stream.close()
    trainer.module.train()
    for place in range(2):
        trainer.train_step(batches[place], 0, place, steps, False)
    started = time.perf_counter()
    for place in range(steps):
        trainer.train_step(batches[place % len(batches)], 0, place, steps, False)
    return steps * len(batches[0]) / (time.perf_counter() - started)


def loading(loader: Loader, epoch: int) -> float:
    """Examples a second of one epoch that nobody trains on."""
    started = time.perf_counter()
    rows = sum(len(batch) for batch in loader.epoch(epoch))
    return rows / (time.perf_counter() - started)


def scanning(loader: Loader) -> float:
    """Examples a second of a bare pyarrow scan of the loader's columns."""
    started = time.perf_counter()
    rows = sum(len(batch) for batch in loader.table.batches(loader.columns))
    return rows / (time.perf_counter() - started)


def memory(loader: Loader, epochs: int, trim: bool) -> tuple[list[float], list[float]]:
    """MB that are resident, and MB that are in use, after each of so many epochs, which come after a few that fill allocators' pools.

    What allocators keep for later comes and goes by 100 MB, with the timing of threads. With `trim` it is given back before each
    look, so that what is left is what somebody holds. In use are bytes that were allocated and not freed, which no pool blurs.
    """
    process = psutil.Process()
    resident, used = [], []
    for epoch in range(SETTLING_EPOCHS + epochs):
        for _ in loader.epoch(epoch):
            pass
        for thread in threading.enumerate():
            if thread.name == "loader":
                thread.join()
        gc.collect()
        if trim:
            _C.malloc_trim(0)
        resident.append(process.memory_info().rss / 2**20)
        counted = _C.mallinfo2()
        used.append((counted.uordblks + counted.hblkhd + pa.total_allocated_bytes()) / 2**20)
    return resident[SETTLING_EPOCHS:], used[SETTLING_EPOCHS:]


class _Counted(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    ]


_C = ctypes.CDLL(None)
_C.mallinfo2.restype = _Counted


def slope(values: Sequence[float]) -> float:
    """Median of the slopes between all pairs of points (Theil-Sen): a single step up or down does not move it."""
    pairs = combinations(enumerate(values), 2)
    return statistics.median((after - before) / (later - earlier) for (earlier, before), (later, after) in pairs)


def measure(inputs: Mapping[str, Bundle], threads: int, repeats: int, steps: int, epochs: int) -> dict[str, tuple[float, str]]:
    """The figures; speeds are medians of `repeats` interleaved measurements."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = trainer_of(inputs, threads, scratch)
        loader = trainer.loader
        loading(loader, 0)
        # Training comes before each of both: Arrow gives memory back once nothing has been read for a while; who reads next pays for it.
        rounds = [
            (consumption(trainer, steps), loading(loader, turn), consumption(trainer, steps), scanning(loader)) for turn in range(repeats)
        ]
        before_load, loaded, before_scan, scanned = (statistics.median(values) for values in zip(*rounds, strict=True))
        consumed = (before_load + before_scan) / 2
        del trainer
        as_it_is, _ = memory(loader, epochs, trim=False)
        # Arrow's own allocator marks pages as free and leaves them resident; the C library's can be told to let go.
        pa.set_memory_pool(pa.system_memory_pool())
        held, used = memory(loader, epochs, trim=True)
    print(f"examples/s: trainer {consumed:,.0f}, loader {loaded:,.0f}, pyarrow scan {scanned:,.0f}; {threads} threads")
    for name, values in (("resident", as_it_is), ("resident, free memory given back", held), ("in use", used)):
        print(f"MB after each of {epochs} epochs, {name}: {' '.join(f'{value:.0f}' for value in values)}; slope {slope(values):.3f}")
    return {
        "loader.vs_consumption": (loaded / consumed, "ratio"),
        "loader.vs_pyarrow": (loaded / scanned, "ratio"),
        "loader.rss_growth_mb_per_epoch": (slope(held), "MB, free memory given back"),
        "loader.rss_growth_mb_per_epoch_untrimmed": (slope(as_it_is), "MB"),
        "loader.memory_in_use_growth_mb_per_epoch": (slope(used), "MB allocated and not freed"),
    }


def _silent(values: Mapping[str, float], step: int = 0) -> None:
    """No tracking server."""


def main() -> None:
    """Measure, print, and enter the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with online_retail/")
    parser.add_argument("--work", type=Path, required=True, help="folder for bundles, made where they are missing")
    parser.add_argument("--threads", type=int, default=1, help="of the training step")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=20, help="whose memory is looked at, after five more")
    parser.add_argument("--dry-run", action="store_true", help="enter no figures")
    options = parser.parse_args()
    inputs = bundles("online_retail", options.data, options.work)
    found = measure(inputs, options.threads, options.repeats, options.steps, options.epochs)
    print(json.dumps({name: round(value, 3) for name, (value, _) in found.items()}, indent=1))
    if not options.dry_run:
        record(found, f"python -m benchmarks.loader {' '.join(sys.argv[1:])}", FIGURES)


if __name__ == "__main__":
    main()
