"""Easy semantic negatives that Spark joined to the examples."""

from __future__ import annotations

from torch import Generator, Tensor

from esans.columns import EASY_IDS
from esans.negatives.base import Batch, Context, Negatives, Sampler
from esans.negatives.config import SamplerConfig
from esans.negatives.config_shards import SOURCES, StitchedEasyConfig
from esans.negatives.easy import Easy
from esans.negatives.stitched import take_draw
from esans.negatives.tables import Catalogue


class StitchedEasy(Easy):
    """Easy negatives as the paper's authors serve them: drawn offline from the same distribution, mixed here (METHOD 4b).

    Reads no cluster tables. An example meets the same `shards.stitch.draws` draws in every epoch.
    """

    Config = StitchedEasyConfig  # type: ignore[assignment]

    config: StitchedEasyConfig  # type: ignore[assignment]

    def __init__(self, config: StitchedEasyConfig, catalogue: Catalogue) -> None:
        Sampler.__init__(self, config, catalogue)
        self.shape = catalogue.require_column(self.name, EASY_IDS, SOURCES["stitched_easy"])

    @classmethod
    def columns(cls, config: SamplerConfig) -> tuple[str, ...]:
        """The easy draws."""
        return (EASY_IDS,)

    def propose(self, batch: Batch, user_BD: Tensor, generator: Generator) -> Negatives:
        """One stored draw per example, (B, clusters, per_cluster); masked as easy draws are."""
        return take_draw(batch, EASY_IDS, self.shape, generator)

    def log_expected_count(self, context: Context, ids: Tensor) -> None:
        """None: the tables that tell it stay with Spark, and semantic terms are not corrected."""

    def draws_per_example(self, batch: Batch) -> int:
        """m_c * m_o of `shards.stitch`."""
        _, clusters, per_cluster = self.shape
        return clusters * per_cluster
