"""The gate: clusters whose figures are out of bounds stop the pipeline before anything is trained on them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from esans.errors import GateError

if TYPE_CHECKING:
    from esans.cluster.config_quality import GateConfig

# Figures summed in another order may differ in the last digits; no bound means those.
_SLACK = 1e-9


@dataclass(frozen=True)
class Bound:
    """One figure, the key that bounds it, and what to try where it is out of bounds."""

    key: str
    figure: str
    hint: str

    @property
    def lower(self) -> bool:
        """Whether the bound is the least value, and not the most."""
        return self.key.startswith("min_")


BOUNDS = (
    Bound("min_utilisation", "utilisation.primary", "lower cluster.num_primary, or raise cluster.kmeans.iterations and restarts"),
    Bound(
        "min_entropy_ratio", "entropy_ratio", "lower cluster.repair.largest so that large primaries are split, or lower cluster.num_primary"
    ),
    Bound("max_largest_over_mean", "largest_over_mean", "lower cluster.repair.largest below this bound"),
    Bound(
        "min_cosine_gap",
        "coherence.cosine_gap",
        "check that the vectors tell items apart (features bundle, duplicates, a constant modality); raise cluster.num_primary, "
        "cluster.kmeans.iterations or align.dim",
    ),
    Bound(
        "min_graph_lift",
        "coherence.graph_lift",
        "check that behaviour takes part (features.behaviour) and that the alignment learned something (its retrieval figures)",
    ),
    Bound(
        "max_hard_pool_topped_up",
        "hard_pool.topped_up_items",
        "raise cluster.num_secondary so that primaries fall into more cells, lower cluster.num_primary, or lower cluster.n_h; "
        "items that no vector tells apart share one cell whatever the sizes",
    ),
    Bound(
        "max_unassigned",
        "unassigned.share",
        "give more items a text, an image or interactions (prepare.items.columns, features), or train a method without clusters",
    ),
    Bound(
        "min_stability_ari",
        "stability.primary_ari",
        "check what changed in the data since cluster.previous was built; keep its codebooks with cluster.assign_only=true",
    ),
    Bound(
        "max_false_negatives_easy",
        "false_negatives.easy_vs_uniform",
        "raise cluster.transition_temperature: the curve in quality.html shows what each T_c costs",
    ),
    Bound(
        "max_false_negatives_hard",
        "false_negatives.hard_vs_uniform",
        "lower cluster.num_primary so that hard negatives come from wider clusters, or train without the hard group",
    ),
)


def broken(figures: Mapping[str, float], config: GateConfig) -> list[str]:
    """One line for every figure out of its bound. A figure that was not measured, or has no value, breaks nothing."""
    lines = []
    for bound in BOUNDS:
        limit, value = getattr(config, bound.key), figures.get(bound.figure)
        if limit is None or value is None or math.isnan(value):
            continue
        if value < limit - _SLACK if bound.lower else value > limit + _SLACK:
            side = "below the least" if bound.lower else "above the most"
            lines.append(f"  {bound.figure} = {value:.4g} is {side} allowed, cluster.gate.{bound.key} = {limit:g}.\n    Try: {bound.hint}.")
    return lines


def enforce(figures: Mapping[str, float], config: GateConfig, look: str) -> None:
    """Stop where figures are out of bounds.

    Args:
        figures: the report of the build.
        config: the bounds.
        look: where the report can be looked at.

    Raises:
        GateError: naming every broken bound, and what to try.
    """
    lines = broken(figures, config)
    if lines:
        many = "1 figure is" if len(lines) == 1 else f"{len(lines)} figures are"
        raise GateError(
            f"cluster: the quality gate is shut, nothing is trained on these clusters: {many} out of bounds.\n"
            + "\n".join(lines)
            + f"\n  To see the clusters: {look}.\n  A bound that is set to null is not checked."
        )
