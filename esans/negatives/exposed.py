"""Exposures that were not clicked, as negatives."""

from __future__ import annotations

from torch import Generator, Tensor

from esans.columns import EXPOSED
from esans.negatives.base import Batch, Negatives, Sampler
from esans.negatives.clusters import first_of_each
from esans.negatives.config import SamplerConfig
from esans.negatives.config_shards import SOURCES, ExposedConfig
from esans.negatives.tables import Catalogue


class Exposed(Sampler):
    """Items that the user was shown before the positive and did not choose; chosen by the world, not drawn, so weighed, not corrected.

    They are few and biased towards what was shown: put a global group beside them.
    """

    kind = "semantic"

    Config = ExposedConfig

    config: ExposedConfig

    def __init__(self, config: ExposedConfig, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        (stored,) = catalogue.require_column(self.name, EXPOSED, SOURCES["exposed"])
        self.num_negatives = min(config.num_negatives or stored, stored)

    @classmethod
    def columns(cls, config: SamplerConfig) -> tuple[str, ...]:
        """The exposures."""
        return (EXPOSED,)

    def propose(self, batch: Batch, user_BD: Tensor, generator: Generator) -> Negatives:
        """The latest (B, num_negatives) exposures; masked: known ones, repeats in the row, places without an exposure, whose id is 0."""
        ids_BE = batch.extra[EXPOSED][:, -self.num_negatives :]
        there = (ids_BE >= 0) & first_of_each(ids_BE)
        ids_BE = ids_BE.clamp_min(0)
        return Negatives(ids_BE, there & ~batch.knows(ids_BE))

    def draws_per_example(self, batch: Batch) -> int:
        """The places for exposures, empty ones included."""
        return self.num_negatives
