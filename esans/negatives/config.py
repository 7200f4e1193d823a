"""Keys of the samplers that come with the project, apart from their torch modules: a wrong key must show before torch is loaded.

A sampler of your own may nest its Config in its class instead; only its errors take as long as its imports do.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from esans.config import PositiveFloat, PositiveInt, config

Mix = Annotated[float, Field(ge=-0.5, le=0.5)]


@config
class SamplerConfig:
    """Keys of one entry of `train.negatives`."""

    sampler: str
    """Name of the sampler: a file in esans/negatives, or package.module:Class for one of your own."""


@config
class UniformConfig(SamplerConfig):
    """Keys of a `uniform` group."""

    num_negatives: PositiveInt = 64
    """Draws per example, or per batch when `shared`."""
    shared: bool = False
    """One pool for the whole batch."""


@config
class InBatchConfig(SamplerConfig):
    """Keys of an `in_batch` group."""


@config
class EasyConfig(SamplerConfig):
    """Keys of an `easy` group."""

    clusters: PositiveInt = 2
    """m_c: primaries drawn per example, without replacement."""
    per_cluster: Annotated[int, Field(ge=2)] = 5
    """m_o: items drawn inside each primary."""
    transition_temperature: PositiveFloat | None = None
    """T_c of the draw between primaries; by default the table that the cluster stage wrote."""
    interpolate: bool = True
    """Add virtual negatives mixed inside each cluster: (m_o + 2)(m_o - 1) / 2 per cluster."""
    unit_norm: bool = True
    """Take virtual negatives at unit norm, which makes them harder than the raw mix where its score is positive."""
    log_weight: float = 0.0
    """Log-weight of the real terms in the denominator."""
    virtual_log_weight: float = 0.0
    """Log-weight of the virtual terms."""


@config
class HardConfig(SamplerConfig):
    """Keys of a `hard` group."""

    num_negatives: PositiveInt = 5
    """n_h: items drawn per example."""
    interpolate: bool = True
    """Add one virtual negative per draw, mixed with the positive."""
    mix: Mix = 0.1
    """lambda: share of the positive in a virtual negative; above 0 harder, below 0 easier."""
    mix_high: Mix | None = None
    """When set, lambda is drawn from U(mix, mix_high) for each term."""
    unit_norm: bool = True
    """Take virtual negatives at unit norm."""
    detach_positive: bool = False
    """Keep gradients of virtual negatives out of the positive's vector."""
    log_weight: float = 0.0
    """Log-weight of the real terms in the denominator."""
    virtual_log_weight: float = 0.0
    """Log-weight of the virtual terms."""

    def __post_init__(self) -> None:
        if self.mix_high is not None and self.mix_high < self.mix:
            raise ValueError(f"mix_high = {self.mix_high} is below mix = {self.mix}; lambda is drawn from U(mix, mix_high)")


# By the name of the sampler's file.
CONFIGS: dict[str, type[SamplerConfig]] = {"uniform": UniformConfig, "in_batch": InBatchConfig, "easy": EasyConfig, "hard": HardConfig}
