"""Training from shards against the same training from batches that lie in memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable

from benchmarks.training.compare import EPOCH
from benchmarks.training.setting import batches_of
from esans.negatives.base import Batch
from esans.train.trainer import Trainer
from esans.train.validation import validate


def measure(trainer: Trainer, rounds: int) -> tuple[float, float]:
    """Speed of streaming over that from memory, and the share of the streaming steps' time that was spent waiting for batches.

    Whole epochs in turns over the same batches, each with the validation before it, during which the trainer begins to read.
    """
    kept = batches_of(trainer)
    _steps(trainer, kept[:4], len(kept))
    ratios, shares = [], []
    for _ in range(rounds):
        waited, started = trainer.loader.wait_seconds, time.perf_counter()
        trainer.loader.prepare(0)
        validate(trainer.model, trainer.users, trainer.device)
        steps = _steps(trainer, trainer.loader.epoch(0), len(kept))
        streaming = time.perf_counter() - started
        shares.append((trainer.loader.wait_seconds - waited) / steps)
        started = time.perf_counter()
        validate(trainer.model, trainer.users, trainer.device)
        _steps(trainer, kept, len(kept))
        ratios.append((time.perf_counter() - started) / streaming)
    return statistics.median(ratios), statistics.median(shares)


def _steps(trainer: Trainer, batches: Iterable[Batch], steps: int) -> float:
    """Seconds of a step for each batch."""
    trainer.module.train()
    started = time.perf_counter()
    for place, batch in enumerate(batches):
        trainer.train_step(batch, EPOCH, place, steps, False)
    return time.perf_counter() - started
