"""Popularity negatives (PNS)."""

from __future__ import annotations

import math

from torch import Generator, Tensor

from esans.errors import ConfigError
from esans.negatives.alias import AliasTable
from esans.negatives.base import Batch, Context, Negatives, Sampler
from esans.negatives.config_global import PopularityConfig
from esans.negatives.tables import Catalogue


class Popularity(Sampler):
    """Negatives by their train count to a power (PNS): a global group, METHOD 4b and 6.

    With a power above 0, items that were never a positive are not drawn: beside such a group alone they are never a negative.
    """

    Config = PopularityConfig

    config: PopularityConfig
    log_probability_N: Tensor

    def __init__(self, config: PopularityConfig, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        # 0 ** 0 is 1: a power of 0 draws every item.
        weights_N = catalogue.target_probability_N.double() ** config.power
        if not weights_N.sum() > 0:
            raise ConfigError(f"train.negatives: {self.name}.power = {config.power}: no item was ever a positive; take power = 0.")
        self.table = AliasTable(weights_N)
        self.register_buffer("log_probability_N", (weights_N / weights_N.sum()).log().float(), persistent=False)

    def propose(self, batch: Batch, user_BD: Tensor, generator: Generator) -> Negatives:
        """Draw ids with replacement."""
        draws = self.config.num_negatives
        ids = self.table.draw((draws,) if self.config.shared else (len(batch), draws), generator)
        return Negatives(ids, valid=~batch.knows(ids))

    def log_expected_count(self, context: Context, ids: Tensor) -> Tensor:
        """num_negatives Q(item); -inf where it is never drawn."""
        return self.log_probability_N[ids] + math.log(self.config.num_negatives)

    def draws_per_example(self, batch: Batch) -> int:
        """num_negatives, shared or not."""
        return self.config.num_negatives

    def encodings_per_example(self, batch: Batch) -> float:
        """A shared pool is encoded once for the batch."""
        return self.config.num_negatives / (len(batch) if self.config.shared else 1)
