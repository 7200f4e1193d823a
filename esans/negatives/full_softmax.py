"""Every item as a negative."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from esans.errors import ConfigError
from esans.negatives.base import Batch, Context, Negatives, Sampler
from esans.negatives.config_global import FullSoftmaxConfig
from esans.negatives.tables import Catalogue


class FullSoftmax(Sampler):
    """All items, once each: the full softmax over the catalogue, the reference where it is small (METHOD 4b and 6).

    Raises:
        ConfigError: the catalogue holds more items than `max_items`.
    """

    Config = FullSoftmaxConfig

    config: FullSoftmaxConfig

    def __init__(self, config: FullSoftmaxConfig, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        if catalogue.num_items > config.max_items:
            raise ConfigError(
                f"train.negatives: {self.name} scores all {catalogue.num_items:,} items for every example, above max_items = "
                f"{config.max_items:,}. Take in_batch, or uniform with shared = true, beside others; or raise max_items."
            )

    def propose(self, batch: Batch, user_BD: Tensor, generator: Generator) -> Negatives:
        """Ids 0 .. N - 1, shared; nothing is random."""
        masked = torch.cat([batch.known, batch.target[:, None]], dim=1)
        # Padding writes to a spare last column.
        place = torch.where(masked >= 0, masked, self.num_items)
        valid = torch.ones(len(batch), self.num_items + 1, dtype=torch.bool, device=place.device).scatter_(1, place, False)
        return Negatives(torch.arange(self.num_items, device=place.device), valid[:, : self.num_items])

    def log_expected_count(self, context: Context, ids: Tensor) -> Tensor:
        """Every item once."""
        return torch.zeros(ids.shape, device=ids.device)

    def draws_per_example(self, batch: Batch) -> int:
        """N."""
        return self.num_items

    def encodings_per_example(self, batch: Batch) -> float:
        """The catalogue is encoded once for the batch."""
        return self.num_items / len(batch)
