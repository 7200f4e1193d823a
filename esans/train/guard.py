"""Steps whose loss or gradient is not finite: skipped on the device, counted there, and told when the host looks anyway."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from esans.errors import EsansError


class TrainingDiverged(EsansError):
    """Too many updates in a row had a loss or a gradient that is not finite."""


class Guard:
    """Counts skipped updates on the device; only `check` waits for it.

    Args:
        device: of the step.
        max_skipped: so many skipped updates in a row at a look end the training.
    """

    def __init__(self, device: torch.device, max_skipped: int) -> None:
        self.max_skipped = max_skipped
        self.skipped = torch.zeros((), device=device)
        self.in_a_row = torch.zeros((), device=device)

    def found(self, loss: Tensor, norm: Tensor) -> Tensor:
        """1.0 where the scalar loss or gradient norm is not finite, else 0.0: (), float32, what optimisers call `found_inf`.

        Both must be the same on every rank, so that all skip together.
        """
        bad = (~(torch.isfinite(loss) & torch.isfinite(norm))).float()
        self.skipped = self.skipped + bad
        self.in_a_row = (self.in_a_row + bad) * bad
        return bad

    def check(self, step: int, groups: Sequence[str]) -> None:
        """Raise TrainingDiverged, naming the step and the groups of negatives, once too many updates in a row were skipped."""
        in_a_row = int(self.in_a_row.item())
        if in_a_row >= self.max_skipped:
            raise TrainingDiverged(
                f"step {step}: the last {in_a_row} updates had a loss or a gradient that is not finite and were skipped "
                f"(negatives: {', '.join(groups)}). Lower train.optimizer.learning_rate, raise train.temperature, or look at the inputs."
            )
