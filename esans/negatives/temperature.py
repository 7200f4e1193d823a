"""Temperature of the softmax: a module, so that one that learns or depends on the example can take its place (contract 3)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from esans.negatives.base import Context
from esans.negatives.config_loss import HIGHEST_TEMPERATURE, LOWEST_TEMPERATURE, FixedConfig, LearnedConfig, TemperatureConfig
from esans.negatives.tables import Catalogue


class Temperature(nn.Module, ABC):
    """Base of every temperature."""

    Config = TemperatureConfig

    def __init__(self, config: TemperatureConfig, catalogue: Catalogue) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def forward(self, context: Context) -> Tensor:
        """Scalar or (B,), > 0."""

    def of_positive(self) -> Tensor | None:
        """Scalar, > 0, where the positive has a temperature of its own; a loss may look at it."""
        return None

    @abstractmethod
    def shown(self) -> Tensor:
        """Scalar for the log: the temperature, or the mean over examples of the last step."""

    def observe(self, context: Context, loss_B: Tensor) -> None:
        """Learn from the losses of the step; most temperatures have nothing to learn that way."""


class Learned(Temperature):
    """One temperature for all examples, learned as its logarithm."""

    Config = LearnedConfig

    config: LearnedConfig

    def __init__(self, config: LearnedConfig, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(config.start)))

    def forward(self, context: Context) -> Tensor:
        """Scalar in [LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE]."""
        return self.shown()

    def shown(self) -> Tensor:
        """The same scalar."""
        return self.log_temperature.clamp(math.log(LOWEST_TEMPERATURE), math.log(HIGHEST_TEMPERATURE)).exp()


class Fixed(Temperature):
    """One temperature for all examples, as the config gives it."""

    Config = FixedConfig

    config: FixedConfig
    value: Tensor

    def __init__(self, config: FixedConfig, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.register_buffer("value", torch.tensor(config.start), persistent=False)

    def forward(self, context: Context) -> Tensor:
        """Scalar."""
        return self.value

    def shown(self) -> Tensor:
        """The same scalar."""
        return self.value
