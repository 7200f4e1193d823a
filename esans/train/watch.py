"""Loss, speed and shares of the groups while an epoch runs; the host waits for the device only at these looks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import psutil
import torch
from torch import Tensor

from esans.train.loader import Loader


class Watch:
    """Accumulates on the device and reports every `every` steps."""

    def __init__(
        self, device: torch.device, every: int, batch_size: int, loader: Loader, log: Callable[[Mapping[str, float], int], None] | None
    ) -> None:
        self.every, self.batch_size, self.loader, self.log = every, batch_size, loader, log
        self._epoch_loss = torch.zeros((), device=device)
        self._loss = torch.zeros((), device=device)
        self._steps = 0
        self._since = time.perf_counter()
        self._waited = loader.wait_seconds
        self._process = psutil.Process()

    def due(self, place: int) -> bool:
        """Whether this step is one to look at."""
        return (place + 1) % self.every == 0

    def see(self, place: int, step: int, loss: Tensor, figures: Mapping[str, Tensor], temperature: Tensor) -> str:
        """Take in one step; at a look, log it and return the line for the progress bar, else ''."""
        self._loss += loss
        self._epoch_loss += loss
        self._steps += 1
        if not self.due(place):
            return ""
        seconds = time.perf_counter() - self._since
        speed = self.every * self.batch_size / seconds
        mean = (self._loss / self.every).item()
        if self.log is not None:
            seen = {
                "step_loss": mean,
                "step_examples_per_second": speed,
                "data_wait_share": (self.loader.wait_seconds - self._waited) / seconds,
                "temperature": temperature.item(),
                "resident_gb": self._process.memory_info().rss / 2**30,
            }
            self.log(seen | {name: figure.item() for name, figure in figures.items()}, step)
        self._loss.zero_()
        self._since, self._waited = time.perf_counter(), self.loader.wait_seconds
        return f"loss {mean:.4f}, {speed:,.0f} examples/s"

    def mean_loss(self) -> float:
        """Mean over the steps seen."""
        return (self._epoch_loss / max(self._steps, 1)).item()
