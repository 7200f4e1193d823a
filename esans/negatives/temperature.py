"""Temperature of the softmax: a module, so that one that learns or depends on the example can take its place (contract 3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# Below, gradients explode in bf16; above, cosines can't separate anything.
LOWEST, HIGHEST = 0.01, 1.0


class Temperature(nn.Module):
    """One temperature for all examples, fixed or learned as its logarithm."""

    def __init__(self, start: float, learn: bool) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(math.log(start)), requires_grad=learn)

    def forward(self) -> Tensor:
        """Scalar in [LOWEST, HIGHEST]."""
        return self.log_temperature.clamp(math.log(LOWEST), math.log(HIGHEST)).exp()
