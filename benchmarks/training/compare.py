"""Methods against each other: steps in turns, ratios within a round, so that what else the machine does falls on all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from esans.negatives.base import Batch
from esans.train.trainer import Trainer

# From here on every group of a method has entered.
EPOCH = 2


def step_times(trainers: Mapping[str, Trainer], batches: Sequence[Batch], rounds: int) -> dict[str, list[float]]:
    """Seconds of a step, by method and round; a round steps every method over the same batches, the first one later each time."""
    names = list(trainers)
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            seconds = _seconds(trainers[name], batches)
            if turn:  # the first round makes the optimisers' states
                found[name].append(seconds)
    return found


def _seconds(trainer: Trainer, batches: Sequence[Batch]) -> float:
    _wait(trainer.device)
    started = time.perf_counter()
    for place, batch in enumerate(batches):
        trainer.train_step(batch, EPOCH, place, len(batches), False)
    _wait(trainer.device)
    return (time.perf_counter() - started) / len(batches)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratio(times: Mapping[str, Sequence[float]], method: str, other: str) -> float:
    """Median over rounds of one method's seconds over another's."""
    return statistics.median(one / two for one, two in zip(times[method], times[other], strict=True))


def memory(trainer: Trainer, batch: Batch) -> float:
    """MB that a step adds: the most that is allocated at once on a GPU, what is kept for the backward pass on a CPU."""
    if trainer.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(trainer.device)
        before = torch.cuda.memory_allocated(trainer.device)
        trainer.train_step(batch, EPOCH, 0, 1, False)
        _wait(trainer.device)
        return (torch.cuda.max_memory_allocated(trainer.device) - before) / 2**20
    kept: dict[int, int] = {}
    own = {tensor.untyped_storage().data_ptr() for tensor in (*trainer.module.parameters(), *trainer.module.buffers())}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, _same):
        trainer.train_step(batch, EPOCH, 0, 1, False)
    return sum(kept.values()) / 2**20


def _same(tensor: Tensor) -> Tensor:
    return tensor


def table(times: Mapping[str, Sequence[float]], kept: Mapping[str, float], batch: int) -> list[list[Any]]:
    """Rows: method, ms a step, examples/s, times uniform, times mixed, MB."""
    rows = []
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        over = [f"{ratio(times, name, other):.2f}" for other in ("uniform", "mixed")]
        rows.append([name, f"{middle * 1e3:.1f}", f"{batch / middle:,.0f}", *over, f"{kept[name]:.0f}"])
    return rows
