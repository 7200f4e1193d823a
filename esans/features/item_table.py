"""Trained item vectors in a memory-mapped file: a step touches the rows it needs, and no other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from esans.features.adjacency import array

_ROWS = 65_536
_EPSILON = 1e-10


class ItemTable:
    """(N, d) float32 rows with row-wise Adagrad: one accumulator a row, the mean of its squared gradients.

    Disk: 4 (d + 1) bytes an item.
    """

    def __init__(self, num_items: int, dim: int, folder: Path, seed: int, learning_rate: float, scale: float = 0.1) -> None:
        self.weight, self.squares = array(folder, "table", (num_items, dim), np.float32), array(folder, "squares", num_items, np.float32)
        self.learning_rate, self._folder = learning_rate, folder
        self._before: list[np.ndarray] = []
        for number, start in enumerate(range(0, num_items, _ROWS)):
            rows = self.weight[start : start + _ROWS]
            rows[:] = np.random.default_rng([seed, number]).standard_normal(rows.shape, dtype=np.float32) * np.float32(scale)

    def remember(self) -> None:
        """Keep a copy of the table as it is, in files of its own."""
        now = (self.weight, self.squares)
        self._before = [array(self._folder, f"before{place}", found.shape, np.float32) for place, found in enumerate(now)]
        _copy(now, self._before)

    def put_back(self) -> None:
        """Return to what was remembered."""
        _copy(self._before, (self.weight, self.squares))

    def rows(self, items: np.ndarray, device: torch.device) -> Tensor:
        """(n, d) copy of some rows on the device, a leaf that gathers gradients."""
        return torch.from_numpy(np.asarray(self.weight[items])).to(device).requires_grad_()

    def update(self, items: np.ndarray, rows: Tensor) -> None:
        """Move the rows of distinct items along the gradient that `rows`, as given out by `rows()`, has gathered."""
        if rows.grad is None:
            return
        gradient = rows.grad.cpu().numpy()
        squares = self.squares[items] + np.square(gradient).mean(axis=1)
        self.squares[items] = squares
        self.weight[items] -= self.learning_rate * gradient / np.sqrt(squares + _EPSILON)[:, None]


def _copy(source: Sequence[np.ndarray], target: Sequence[np.ndarray]) -> None:
    for old, new in zip(source, target, strict=True):
        for start in range(0, len(old), _ROWS):
            new[start : start + _ROWS] = old[start : start + _ROWS]
