"""Hard semantic negatives that Spark joined to the examples."""

from __future__ import annotations

from torch import Generator, Tensor

from esans.columns import HARD_IDS
from esans.negatives.base import Batch, Context, Negatives, Sampler
from esans.negatives.config import SamplerConfig
from esans.negatives.config_shards import SOURCES, StitchedHardConfig
from esans.negatives.hard import Hard
from esans.negatives.stitched import take_draw
from esans.negatives.tables import Catalogue


class StitchedHard(Hard):
    """Hard negatives as the paper's authors serve them: drawn offline from the same distribution, mixed here (METHOD 4b).

    Reads no cluster tables. An example meets the same `shards.stitch.draws` draws in every epoch.
    """

    Config = StitchedHardConfig  # type: ignore[assignment]

    config: StitchedHardConfig  # type: ignore[assignment]

    def __init__(self, config: StitchedHardConfig, catalogue: Catalogue) -> None:
        Sampler.__init__(self, config, catalogue)
        self.shape = catalogue.require_column(self.name, HARD_IDS, SOURCES["stitched_hard"])

    @classmethod
    def columns(cls, config: SamplerConfig) -> tuple[str, ...]:
        """The hard draws."""
        return (HARD_IDS,)

    def propose(self, batch: Batch, user_BD: Tensor, generator: Generator) -> Negatives:
        """One stored draw per example, (B, n_h); masked as hard draws are."""
        return take_draw(batch, HARD_IDS, self.shape, generator)

    def log_expected_count(self, context: Context, ids: Tensor) -> None:
        """None: the tables that tell it stay with Spark, and semantic terms are not corrected."""

    def draws_per_example(self, batch: Batch) -> int:
        """n_h of `shards.stitch`."""
        return self.shape[1]
