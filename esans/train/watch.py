"""Loss, speed and the diagnosis of the negatives while an epoch runs; the host waits for the device only at these looks."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import psutil
import torch
from torch import Tensor

from esans.train.loader import Loader

# Before the name of a figure in an epoch's record.
DIAGNOSIS = "diag_"
OVERALL = (
    "hardness",
    "false_negative_rate",
    "false_negative_mass",
    "effective_negatives",
    "alignment",
    "uniformity_users",
    "uniformity_items",
    "encodings_per_example",
)


class Watch:
    """Accumulates on the device and reports every `every` steps. Figures are those of this process."""

    def __init__(
        self, device: torch.device, every: int, batch_size: int, loader: Loader, log: Callable[[Mapping[str, float], int], None] | None
    ) -> None:
        self.every, self.batch_size, self.loader, self.log = every, batch_size, loader, log
        self._epoch_loss = torch.zeros((), device=device)
        self._loss = torch.zeros((), device=device)
        self._finite = torch.zeros((), device=device)
        self._epoch_finite = torch.zeros((), device=device)
        self._seen: dict[str, list[float]] = defaultdict(list)
        # Since the last look of this process: after a resume in the middle these are fewer than `every`.
        self._since, self._steps = time.perf_counter(), 0
        self._waited = loader.wait_seconds
        self._process = psutil.Process()

    def due(self, place: int) -> bool:
        """Whether this step is one to look at."""
        return (place + 1) % self.every == 0

    def see(self, place: int, step: int, loss: Tensor, figures: Mapping[str, Tensor], temperature: Tensor) -> str:
        """Take in one step; at a look, log it and return the line for the progress bar, else ''."""
        # A step whose loss is not finite was skipped; it must not hide the others.
        finite = torch.isfinite(loss)
        counted = torch.where(finite, loss, 0.0)
        self._loss += counted
        self._epoch_loss += counted
        self._finite += finite
        self._epoch_finite += finite
        self._steps += 1
        if not self.due(place):
            return ""
        seconds = time.perf_counter() - self._since
        speed = self._steps * self.batch_size / seconds
        mean = (self._loss / self._finite.clamp_min(1)).item()
        found = to_host(figures)
        for name, value in found.items():
            self._seen[name].append(value)
        if self.log is not None:
            seen = {
                "step_loss": mean,
                "step_examples_per_second": speed,
                "step_seconds": seconds / self._steps,
                "data_wait_share": (self.loader.wait_seconds - self._waited) / seconds,
                "temperature": temperature.item(),
                "resident_gb": self._process.memory_info().rss / 2**30,
            }
            self.log(seen | found, step)
        self._loss.zero_()
        self._finite.zero_()
        self._since, self._steps, self._waited = time.perf_counter(), 0, self.loader.wait_seconds
        return f"loss {mean:.4f}, {speed:,.0f} examples/s"

    def state_dict(self) -> dict[str, Any]:
        """The sums and counts of the epoch so far, for a checkpoint."""
        return {"sums": self._sums(), "seen": {name: list(values) for name, values in self._seen.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        for mine, saved in zip(self._sums(), state["sums"], strict=True):
            mine.copy_(saved)
        self._seen.update(state["seen"])

    def _sums(self) -> tuple[Tensor, ...]:
        return self._epoch_loss, self._loss, self._epoch_finite, self._finite

    def mean_loss(self) -> float:
        """Mean over the steps seen whose loss is finite."""
        return (self._epoch_loss / self._epoch_finite.clamp_min(1)).item()

    def mean_figures(self) -> dict[str, float]:
        """Means over the looks, by the name in an epoch's record; a look that had nothing to measure does not count."""
        return {DIAGNOSIS + name: math.fsum(values) / len(values) for name, values in self._seen.items()}


def to_host(figures: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars on the host, in one transfer; those without a finite value, where there was nothing to measure, are left out."""
    if not figures:
        return {}
    values = torch.stack([figure.detach().float() for figure in figures.values()]).tolist()
    return {name: value for name, value in zip(figures, values, strict=True) if math.isfinite(value)}


def summary(record: Mapping[str, float]) -> dict[str, float]:
    """The figures of an epoch's record that describe the negatives of all groups together, by their plain names."""
    return {name: record[DIAGNOSIS + name] for name in OVERALL if DIAGNOSIS + name in record}
