"""Keys of losses and temperatures, apart from their torch modules: a wrong key must show before torch is loaded."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from esans.config import Fraction, PositiveFloat, config

# Below, gradients explode in bf16; above, cosines can't separate anything.
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.01, 1.0
TemperatureValue = Annotated[float, Field(ge=LOWEST_TEMPERATURE, le=HIGHEST_TEMPERATURE)]


@config
class LossConfig:
    """Keys of `train.loss`."""

    loss: str
    """Name of the loss: sampled_softmax, gbce, ada_tau, or package.module:Class for one of your own."""


@config
class SampledSoftmaxConfig(LossConfig):
    """Keys of the `sampled_softmax` loss."""

    correction: Literal["pooled", "full", "none"] = "pooled"
    """What terms of global groups subtract (METHOD 4b): pooled keeps uniform draws uncorrected, full estimates the full
    softmax itself, none is the plain sampled softmax."""


@config
class GbceConfig(LossConfig):
    """Keys of the `gbce` loss."""

    calibration: Fraction = 0.2
    """t: 0 is plain binary cross-entropy, whose sigmoid is too sure of itself where negatives are sampled; 1 undoes the sampling."""


@config
class AdaTauLossConfig(LossConfig):
    """Keys of the `ada_tau` loss."""


@config
class TemperatureConfig:
    """Keys of `train.temperature`; a number there stands for {temperature: learned, start: NUMBER}."""

    temperature: str
    """Name of the temperature: learned, fixed, ada_tau, or package.module:Class for one of your own."""


@config
class LearnedConfig(TemperatureConfig):
    """Keys of a `learned` temperature."""

    start: TemperatureValue = 0.1
    """Where it starts; it stays within 0.01 .. 1."""


@config
class FixedConfig(TemperatureConfig):
    """Keys of a `fixed` temperature."""

    start: TemperatureValue = 0.1
    """Its value."""


@config
class AdaTauConfig(TemperatureConfig):
    """Keys of an `ada_tau` temperature."""

    beta: PositiveFloat = 1.0
    """Scale, in nats, of how far a user's loss must lie from the mean to move the user's temperature; larger is closer to one for all."""
    refresh_epochs: PositiveFloat = 1.0
    """Epochs, fractions allowed, between two looks at what was seen since the last; until the first one all users share a temperature."""


LOSS_CONFIGS: dict[str, type[LossConfig]] = {"sampled_softmax": SampledSoftmaxConfig, "gbce": GbceConfig, "ada_tau": AdaTauLossConfig}
TEMPERATURE_CONFIGS: dict[str, type[TemperatureConfig]] = {"learned": LearnedConfig, "fixed": FixedConfig, "ada_tau": AdaTauConfig}
