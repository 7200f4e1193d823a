"""Training from shards against the same training from batches that lie in memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable

from benchmarks.training.compare import EPOCH
from benchmarks.training.setting import batches_of
from esans.negatives.base import Batch
from esans.train.trainer import Trainer


def measure(trainer: Trainer, rounds: int) -> tuple[float, float]:
    """Examples/s of streaming over those from memory, and the share of the streaming time that was spent waiting for batches.

    Whole epochs in turns over the same batches, so that the reading of the first window counts.
    """
    kept = batches_of(trainer)
    _seconds(trainer, kept[:4], len(kept))
    ratios, shares = [], []
    for _ in range(rounds):
        waited = trainer.loader.wait_seconds
        streaming = _seconds(trainer, trainer.loader.epoch(0), len(kept))
        shares.append((trainer.loader.wait_seconds - waited) / streaming)
        ratios.append(_seconds(trainer, kept, len(kept)) / streaming)
    return statistics.median(ratios), statistics.median(shares)


def _seconds(trainer: Trainer, batches: Iterable[Batch], steps: int) -> float:
    started = time.perf_counter()
    for place, batch in enumerate(batches):
        trainer.train_step(batch, EPOCH, place, steps, False)
    return time.perf_counter() - started
