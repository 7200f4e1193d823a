"""Keys under `cluster.quality` and `cluster.gate`: how clusters are judged, and when they are refused."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from pydantic import Field

from esans.config import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, config
from esans.roots import Place


@config
class QualityConfig:
    """What the report measures beside sizes, agreement and coherence. Changes no table that a sampler draws from."""

    enabled: bool = True
    """Measure false negatives and hardness, and write clusters.html: a few more passes over a bounded number of users and items."""
    temperatures: Annotated[list[PositiveFloat], Field(max_length=20)] = dataclasses.field(
        default_factory=lambda: [0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    )
    """T_c of the curve of false negatives against hardness; transition_temperature joins them. Above 0 each; at most 20."""
    max_anchors: PositiveInt = 20
    """Train positives of a user, the last ones, for whose negatives false negatives are counted. At least 1."""
    max_pairs: Annotated[int, Field(ge=1_000)] = 2_000_000
    """Pairs of a train and a validation positive that are counted: all where there are no more, else those of users
    sampled by a hash. Bounds what Spark joins and what reaches the driver (40 bytes a pair at most). At least 1,000."""
    model: Annotated[str | None, Place] = None
    """URI of a train bundle: hardness is then the score of users and negatives under that model, which is loaded on the driver
    (items x dim x 4 bytes); null takes the cosine of aligned vectors. Like every key that the report reads, a change of it
    builds the clusters anew."""
    hardness_anchors: Annotated[int, Field(ge=100, le=100_000)] = 2_000
    """Positives for which negatives are drawn to see how hard they are. 100 to 100,000."""
    hardness_draws: Annotated[int, Field(ge=1, le=1_000)] = 10
    """Negatives of each kind drawn per positive. 1 to 1,000."""
    page_primaries: Annotated[int, Field(ge=1, le=200)] = 16
    """Primary clusters on the page clusters.html, spread over the sizes. 1 to 200."""
    page_items: Annotated[int, Field(ge=1, le=50)] = 12
    """Items shown of each of them, each of which can be chosen to see its negatives. 1 to 50."""
    page_negatives: Annotated[int, Field(ge=1, le=50)] = 8
    """Easy and hard negatives shown for each of those items. 1 to 50."""
    page_nearest: Annotated[int, Field(ge=1, le=20)] = 5
    """Nearest primaries shown for each primary. 1 to 20."""
    thumbnail: Annotated[int, Field(ge=0, le=256)] = 56
    """Longer side of the pictures on the page where prepare has images; 0 shows none. Pixels, 0 to 256."""


@config
class GateConfig:
    """Bounds on figures of the report; a broken one stops the stage, and so the pipeline, before anything is trained. null is off.

    A bound changes no table: a finished bundle is held against the bounds of today, not built again.
    """

    min_utilisation: Fraction | None = 0.95
    """Least utilisation.primary: share of primaries that hold items. 0 to 1."""
    min_entropy_ratio: Fraction | None = 0.5
    """Least entropy_ratio of the primary sizes: 1 where all are equal. 0 to 1."""
    max_largest_over_mean: Annotated[float, Field(ge=1)] | None = 10.0
    """Most largest_over_mean: size of the largest primary in mean sizes. 1 or more."""
    min_cosine_gap: float | None = 0.0
    """Least coherence.cosine_gap: mean cosine of two items of one primary, less that of any two items. -2 to 2; random clusters: 0."""
    min_graph_lift: NonNegativeFloat | None = None
    """Least coherence.graph_lift: weight of the item graph inside primaries, in times of what chance gives. 0 or more; chance: 1."""
    max_hard_pool_topped_up: Fraction | None = 0.5
    """Most hard_pool.topped_up_items: share of items whose hard negatives come from another primary too. 0 to 1."""
    max_unassigned: Fraction | None = 0.5
    """Most unassigned.share: share of items without any vector, which no semantic draw meets. 0 to 1."""
    min_stability_ari: Annotated[float, Field(ge=-1, le=1)] | None = None
    """Least stability.primary_ari against cluster.previous: 1 where nothing moved, 0 by chance. -1 to 1."""
    max_false_negatives_easy: PositiveFloat | None = None
    """Most false_negatives.easy_vs_uniform. Ratio, above 0. Hardness is bought with false negatives: the price is yours to set."""
    max_false_negatives_hard: PositiveFloat | None = None
    """Most false_negatives.hard_vs_uniform. Ratio, above 0."""
