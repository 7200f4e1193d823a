"""Keys of samplers that choose among scored candidates, apart from their torch modules: a wrong key must show before torch is loaded."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from esans.config import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, config
from esans.negatives.config import SamplerConfig, SemanticConfig


@config
class CandidatesConfig(SemanticConfig):
    """Keys of every sampler that scores candidates and keeps some."""

    candidates: PositiveInt = 32
    """M: items drawn uniformly for one pool; all of them are encoded."""
    pool: Literal["example", "shared"] = "example"
    """Whether each example draws a pool of its own, or the batch shares one, which encodes far fewer items."""


@config
class PoolPerPickConfig(CandidatesConfig):
    """Keys of samplers that keep one negative of each pool."""

    num_negatives: PositiveInt = 4
    """Negatives per example; each has a pool of `candidates` of its own."""


@config
class DnsConfig(PoolPerPickConfig):
    """Keys of a `dns` group."""

    top: PositiveInt = 1
    """m: the pick is a random one of the m hardest of its pool; 1 takes the hardest."""

    def __post_init__(self) -> None:
        if self.top > self.candidates:
            raise ValueError(f"top = {self.top} is above candidates = {self.candidates}")


@config
class MixgcfConfig(PoolPerPickConfig):
    """Keys of a `mixgcf` group."""

    unit_norm: bool = False
    """Take the mixes at unit norm, which makes them harder; the paper keeps the raw ones."""


@config
class AhnsConfig(PoolPerPickConfig):
    """Keys of an `ahns` group; all on cosines."""

    alpha: PositiveFloat = 0.5
    """Added to the positive's score; .1 .. 1 in the paper."""
    beta: PositiveFloat = 0.5
    """Scale of the score that a negative should have; .1 .. 4 in the paper."""
    power: Annotated[float, Field(lt=-1)] = -2.0
    """p: the score sought is beta (s+ + alpha)^(p + 1), lower where the positive scores high."""


@config
class PickedConfig(CandidatesConfig):
    """Keys of samplers that keep several negatives of one pool."""

    candidates: PositiveInt = 64
    """M: items drawn uniformly for the pool; all of them are encoded."""
    num_negatives: PositiveInt = 8
    """Negatives per example, drawn from the pool without replacement."""

    def __post_init__(self) -> None:
        if self.num_negatives > self.candidates:
            raise ValueError(f"num_negatives = {self.num_negatives} is above candidates = {self.candidates}")


@config
class SimansConfig(PickedConfig):
    """Keys of a `simans` group."""

    a: NonNegativeFloat = 0.5
    """Sharpness around the positive's score, in inverse squares of the scale's unit; 0 draws uniformly."""
    b: float = 0.0
    """Where the draw peaks relative to the positive's score, in the scale's unit; below 0 is easier."""
    scale: Literal["logits", "cosines"] = "logits"
    """What a and b act on: cosines over the loss's temperature, the analogue of the paper's inner products, or cosines."""


@config
class FairnegConfig(PickedConfig):
    """Keys of a `fairneg` group."""

    hardness: Fraction = 0.4
    """br: share of the draw that follows the scores; the rest follows the groups."""
    score_temperature: PositiveFloat = 0.4
    """Temperature of the softmax over the pool's cosines."""
    column: str | None = None
    """Side column whose values are the groups, missing ones a group too; by default equally large groups by popularity."""
    groups: PositiveInt = 10
    """Popularity groups, where no column is named."""
    rate: PositiveFloat = 0.2
    """lr: step of the group probabilities."""
    update_every: PositiveInt = 100
    """Steps whose positive losses one update of the group probabilities averages."""


@config
class MochiConfig(CandidatesConfig):
    """Keys of a `mochi` group."""

    candidates: PositiveInt = 128
    """Items drawn uniformly for the pool; all of them are encoded."""
    hardest: Annotated[int, Field(ge=2)] = 32
    """Hardest of the pool that mixes are made of."""
    num_pairs: PositiveInt = 16
    """Mixes of two of the hardest."""
    num_query_mixes: PositiveInt = 16
    """Mixes of the user and one of the hardest."""
    real: bool = True
    """Keep the whole pool as negatives beside the mixes, as the paper does."""

    def __post_init__(self) -> None:
        if self.hardest > self.candidates:
            raise ValueError(f"hardest = {self.hardest} is above candidates = {self.candidates}")


# By the name of the sampler's file.
CONFIGS: dict[str, type[SamplerConfig]] = {
    "dns": DnsConfig,
    "mixgcf": MixgcfConfig,
    "simans": SimansConfig,
    "ahns": AhnsConfig,
    "mochi": MochiConfig,
    "fairneg": FairnegConfig,
}
