"""Configuration of the cluster stage."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from esans.cluster.config_quality import GateConfig, QualityConfig
from esans.codebooks.config import KMeansConfig
from esans.codebooks.sizes import Sizes, decide
from esans.config import Added, Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, Runtime, config, section
from esans.roots import Place

MODES = ("kmeans", "vq")
# Sizes by the rule stay those of the previous build while they are within this factor of what the rule says today.
_KEEP_SIZES = 1.5


@config
class RepairConfig:
    """How clusters that break the guarantees are mended."""

    largest: Annotated[float, Field(gt=1)] = 5.0
    """A primary above this many times the mean size is split. Above 1."""
    sample_rounds: PositiveInt = 10
    """Rounds of merging and splitting on the sample. At least 1."""
    rounds: PositiveInt = 4
    """Rounds counted over all items, before what is left is merged or split without regard to distance. At least 1."""
    penalty: Annotated[float, Field(ge=0)] = 0.1
    """Strength of the size penalty of clusters near a bound, in mean squared distances. 0 or more; 0 turns it off."""


@config
class DriftConfig:
    """Keys under `cluster.drift`: when codes that `assign_only` kept no longer fit the vectors."""

    action: Literal["stop", "rebuild"] = "stop"
    """`rebuild`: where a bound below is broken, or where assign_only would stop, clusters are fitted again from the earlier codebooks, with
    the earlier ids. `stop`: the bounds are not looked at, and assign_only stops where it can't keep its promise."""
    max_new: Fraction = 0.1
    """Items that came since the codebooks were fitted, as a share of all that have a code. 0 to 1."""
    max_moved: Fraction = 0.3
    """Share of the old items whose nearest primary is another than the one they have. 0 to 1."""
    max_distance: NonNegativeFloat = 0.2
    """Rise of the mean squared distance of an item to its centroid since the codebooks were fitted, as a share of what it was then;
    0.2 is a fifth more. 0 or more."""


@config
class ClusterConfig:
    """Keys under `cluster`."""

    mode: str = "kmeans"
    """How the codebooks are fitted: `kmeans`, per level on a sample; `vq`, together with the alignment (set align.codebooks=vq)."""
    num_primary: Annotated[int, Field(ge=2, le=20_000)] | None = None
    """K1. By default sqrt(items), at most items / (3 x min_cluster_size): the mean size stays well above the least; with `previous`
    its K1 while that is within a factor of 1.5. 2 to 20,000."""
    num_secondary: Annotated[int, Field(ge=2, le=1_024)] | None = None
    """K2. By default sqrt(items / K1), 2 to 256: a primary splits into about as many cells as a cell has items; with `previous`
    its K2 while that is within a factor of 1.5. 2 to 1,024."""
    min_cluster_size: PositiveInt = 20
    """Every primary holds at least this many items, and at least m_o (METHOD 2 asks for max(m_o, 20)). Items; at least 1."""
    m_c: PositiveInt = 2
    """Easy clusters that a method draws per positive; there will be more primaries than that. At least 1."""
    m_o: PositiveInt = 5
    """Items that a method draws in each easy cluster. At least 1."""
    n_h: PositiveInt = 5
    """Hard negatives per positive: smaller hard pools are topped up from the nearest primary. At least 1."""
    transition_temperature: PositiveFloat = 0.1
    """T_c of the transition probabilities: smaller draws easy negatives from nearer clusters. Above 0."""
    kmeans: KMeansConfig = section(KMeansConfig)
    """How codebooks are fitted."""
    repair: RepairConfig = section(RepairConfig)
    """How clusters that break the guarantees are mended."""
    category: str | None = None
    """Name of a side column (prepare.items.side) to judge purity by; null reports none."""
    quality: QualityConfig = section(QualityConfig)
    """What the report measures beside sizes, agreement and coherence."""
    gate: Annotated[GateConfig, Runtime] = section(GateConfig)
    """Bounds on figures of the report that stop the pipeline before anything is trained."""
    previous: Annotated[str | None, Place] = None
    """URI of an earlier cluster bundle: k-means starts from its codebooks, ids are matched to its ids, and the adjusted Rand index
    is reported; null starts afresh."""
    keep_within: Fraction = 0.02
    """With `previous`: its codebooks stay as they are while k-means from them would lower the distortion by less than this share.
    0 to 1; 0 fits again unless there is nothing to gain."""
    assign_only: bool = False
    """Keep the codebooks and every code of `previous`, and give the items that are new to it the nearest codes; nothing is fitted."""
    least_agreement: Fraction = 0.5
    """With `assign_only` on vectors of another alignment: share of old items whose nearest primary must be the one they have. 0 to 1."""
    drift: Annotated[DriftConfig, Added] = section(DriftConfig)
    """With `assign_only`: when to fit again after all."""
    assign_batch: Annotated[PositiveInt, Runtime] = 512
    """Items scored against all centroids at a time on a worker: batch x K1 x 4 bytes. At least 1."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode = {self.mode!r}: must be one of {', '.join(MODES)}.")
        if self.n_h > self.least:
            raise ValueError(
                f"n_h = {self.n_h} is more than min_cluster_size = {self.min_cluster_size}: "
                "one primary must be able to top up a hard pool. Raise min_cluster_size or lower n_h."
            )
        if self.num_primary is not None and self.num_primary <= self.m_c:
            raise ValueError(
                f"num_primary = {self.num_primary} must be more than m_c = {self.m_c}: easy clusters are drawn among the other primaries."
            )
        if self.assign_only and self.previous is None:
            raise ValueError("assign_only = True needs previous: the URI of the cluster bundle whose codebooks are kept.")

    @property
    def least(self) -> int:
        """Items that every primary must hold."""
        return max(self.min_cluster_size, self.m_o)

    def sizes(self, items: int, previous: tuple[int, int] | None = None) -> Sizes:
        """K1 and K2 for so many items that have a vector, given those of an earlier build. Raises DataError when the items are too few."""
        found = decide(items, self.least, self.m_c + 1, self.repair.largest, self.num_primary, self.num_secondary)
        if previous is None:
            return found
        primary = previous[0] if self.num_primary is None and previous[0] * self.least <= items else found.primary
        secondary = previous[1] if self.num_secondary is None else found.secondary
        return replace(found, primary=_near(primary, found.primary), secondary=_near(secondary, found.secondary))


def _near(wanted: int, rule: int) -> int:
    return wanted if rule / _KEEP_SIZES <= wanted <= rule * _KEEP_SIZES else rule
