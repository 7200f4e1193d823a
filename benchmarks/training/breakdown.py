"""Where the time of a step goes, part by part, and how much of the device it uses."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.training.compare import EPOCH
from esans.negatives.base import Batch
from esans.train.profile import parts_of_steps
from esans.train.trainer import Trainer


class Clock:
    """Time inside named parts: of the processor, or of the device by CUDA events, which make nothing wait."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._spans: dict[str, list[tuple[Any, Any]]] = defaultdict(list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """One span of a part."""
        started = self._now()
        try:
            yield
        finally:
            self._spans[name].append((started, self._now()))

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter() * 1e3
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def milliseconds(self) -> dict[str, float]:
        """Sums by part."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return {name: sum(start.elapsed_time(stop) for start, stop in spans) for name, spans in self._spans.items()}
        return {name: sum(stop - start for start, stop in spans) for name, spans in self._spans.items()}


def parts(trainer: Trainer, batches: Sequence[Batch], repeats: int) -> dict[str, float]:
    """Milliseconds of a step by part, with `rest` for what is outside all parts, and `step` for the whole."""
    clock = Clock(trainer.device)
    with parts_of_steps(trainer, clock.part):
        for _ in range(repeats):
            for place, batch in enumerate(batches):
                with clock.part("step"):
                    trainer.train_step(batch, EPOCH, place, len(batches), False)
    found = {name: total / (repeats * len(batches)) for name, total in clock.milliseconds().items()}
    found["rest"] = 2 * found["step"] - sum(found.values())
    return found


def table(found: dict[str, dict[str, float]]) -> list[list[Any]]:
    """Rows by part, a column of milliseconds for each method."""
    names = list(dict.fromkeys(name for values in found.values() for name in values if name not in ("rest", "step")))
    names.sort(key=lambda name: -max(values.get(name, 0.0) for values in found.values()))
    return [[name, *(f"{values[name]:.2f}" if name in values else "-" for values in found.values())] for name in [*names, "rest", "step"]]


class _Traffic(TorchDispatchMode):
    """Bytes that operators read and write, were each to fetch its operands from memory."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            flat, _ = torch.utils._pytree.tree_flatten((args, kwargs, result))
            # A gather or a look-up reads as much as it writes, not its table.
            gathers = any(name in func._schema.name for name in ("index", "embedding", "gather"))
            sizes = [value.numel() * value.element_size() for value in flat if isinstance(value, Tensor)]
            self.bytes += sum(sizes) - (max(sizes) - min(max(sizes), sizes[-1]) if gathers and sizes else 0)
        return result


def used(trainer: Trainer, batch: Batch) -> tuple[float, float]:
    """Floating point operations of a step (matrix products only), and an estimate of the bytes that its operators move."""
    with FlopCounterMode(display=False) as flops:
        trainer.train_step(batch, EPOCH, 0, 1, False)
    traffic = _Traffic()
    with traffic:
        trainer.train_step(batch, EPOCH, 0, 1, False)
    return float(flops.get_total_flops()), float(traffic.bytes)
