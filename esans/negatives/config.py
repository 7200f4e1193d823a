"""Keys of the samplers that come with the project, apart from their torch modules: a wrong key must show before torch is loaded.

A sampler of your own may nest its Config in its class instead; only its errors take as long as its imports do.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from esans.config import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, config

# Beyond it the positive weighs more than the negative does (METHOD 4).
LARGEST_MIX = 0.5
Mix = Annotated[float, Field(ge=-LARGEST_MIX, le=LARGEST_MIX)]


@config
class Ramp:
    """A value that moves in a straight line from `start` to `end` between two points of the training."""

    start: float
    """Value up to `from_epoch`."""
    end: float
    """Value from `to_epoch` on."""
    from_epoch: NonNegativeFloat = 0.0
    """Epochs, fractions allowed."""
    to_epoch: NonNegativeFloat
    """Epochs, fractions allowed."""

    def __post_init__(self) -> None:
        if self.to_epoch < self.from_epoch:
            raise ValueError(f"to_epoch = {self.to_epoch} comes before from_epoch = {self.from_epoch}")

    def at(self, epoch: float) -> float:
        """The value at a point of the training, in epochs."""
        if epoch >= self.to_epoch:
            return self.end
        passed = max(epoch - self.from_epoch, 0.0) / (self.to_epoch - self.from_epoch)
        return self.start + passed * (self.end - self.start)


def value_at(value: float | Ramp, epoch: float) -> float:
    """A fixed value, or a ramp's value at a point of the training in epochs."""
    return value.at(epoch) if isinstance(value, Ramp) else float(value)


@config
class SamplerConfig:
    """Keys of one entry of `train.negatives`."""

    sampler: str
    """Name of the sampler: a file in esans/negatives, or package.module:Class for one of your own."""
    enters_at_epoch: NonNegativeFloat = 0.0
    """Epochs, fractions allowed, that are trained without the group: the hardest negatives hurt an untrained model."""


@config
class SemanticConfig(SamplerConfig):
    """Keys of a semantic group: its terms are weighed, not corrected (METHOD 4b)."""

    log_weight: float | Ramp = 0.0
    """Log-weight of the real terms in the denominator; a ramp {start, end, from_epoch, to_epoch} anneals it."""
    temperature_ratio: PositiveFloat = 1.0
    """The group's temperature, as a multiple of the loss's."""


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

    gather: bool = True
    """Draw from the positives of all processes, with gradient, so that a step is the same at any number of them; else each
    process draws from its own part of the batch, which sends nothing and has `launch.processes` times fewer negatives."""
    estimate: Literal["counts", "streaming"] = "counts"
    """What the expected counts come from: the items' train counts, or the gaps between their appearances as batches go by
    (Yi 2019), which saturate at once per batch for head items."""
    rate: Annotated[float, Field(gt=0, le=1)] = 0.01
    """a: weight of the newest gap in the streaming estimate."""


@config
class SimpleMixConfig(SemanticConfig):
    """Keys of simple interpolation, wherever its parents were drawn."""

    interpolate: bool = True
    """Add virtual negatives mixed inside each cluster: (m_o + 2)(m_o - 1) / 2 per cluster."""
    unit_norm: bool = True
    """Take virtual negatives at unit norm, which makes them harder than the raw mix where its score is positive."""
    virtual_log_weight: float | Ramp = 0.0
    """Log-weight of the virtual terms."""


@config
class EasyConfig(SimpleMixConfig):
    """Keys of an `easy` group."""

    clusters: PositiveInt = 2
    """m_c: primaries drawn per example, without replacement."""
    per_cluster: Annotated[int, Field(ge=2)] = 5
    """m_o: items drawn inside each primary."""
    transition_temperature: PositiveFloat | None = None
    """T_c of the draw between primaries; by default the table that the cluster stage wrote."""
    spare_neighbours: NonNegativeInt = 0
    """The positive's nearest items by co-occurrence (the item graph of the features stage), so many, are never its negatives."""


@config
class HardMixConfig(SemanticConfig):
    """Keys of hard interpolation, wherever the negatives were drawn."""

    interpolate: bool = True
    """Add one virtual negative per draw, mixed with the positive."""
    mix: Mix | Ramp = 0.1
    """lambda: share of the positive in a virtual negative; above 0 harder, below 0 easier; a ramp anneals it."""
    mix_high: Mix | None = None
    """When set, lambda is drawn from U(mix, mix_high) for each term."""
    unit_norm: bool = True
    """Take virtual negatives at unit norm."""
    detach_positive: bool = False
    """Keep gradients of virtual negatives out of the positive's vector."""
    virtual_log_weight: float | Ramp = 0.0
    """Log-weight of the virtual terms."""

    def __post_init__(self) -> None:
        ends = [self.mix.start, self.mix.end] if isinstance(self.mix, Ramp) else [self.mix]
        if self.mix_high is not None and self.mix_high < max(ends):
            raise ValueError(f"mix_high = {self.mix_high} is below mix = {max(ends)}; lambda is drawn from U(mix, mix_high)")
        if max(abs(end) for end in ends) > LARGEST_MIX:
            raise ValueError(f"mix runs from {ends[0]} to {ends[-1]}; keep it within -{LARGEST_MIX} .. {LARGEST_MIX}")


@config
class HardConfig(HardMixConfig):
    """Keys of a `hard` group."""

    num_negatives: PositiveInt = 5
    """n_h: items drawn per example."""
    spare_neighbours: NonNegativeInt = 0
    """The positive's nearest items by co-occurrence (the item graph of the features stage), so many, are never its negatives."""


# By the name of the sampler's file.
CONFIGS: dict[str, type[SamplerConfig]] = {"uniform": UniformConfig, "in_batch": InBatchConfig, "easy": EasyConfig, "hard": HardConfig}
