"""Which metrics and slices are computed: shared by the stages that evaluate, so that their tables can stand side by side."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from pydantic import Field

from esans.config import NonNegativeInt, PositiveInt, config


@config
class MetricsConfig:
    """Keys under `evaluate.metrics` and `references.metrics`; keep the two alike, or the tables cannot be compared."""

    ks: list[PositiveInt] = dataclasses.field(default_factory=lambda: [10, 50, 200])
    """Cut-offs of recall and hit rate, in items, rising."""
    ndcg_k: PositiveInt = 50
    """Cut-off of NDCG, coverage, novelty and popularity lift, in items."""
    popularity_buckets: PositiveInt = 10
    """Buckets of items by train positives, with about equal numbers of items; equal counts share a bucket, cold items have their own."""
    history_edges: list[PositiveInt] = dataclasses.field(default_factory=lambda: [5, 10, 20, 50, 100])
    """Lower ends of the history-length slices, in distinct earlier items, rising; the first slice starts at 0."""
    cold_below: PositiveInt = 5
    """Items with fewer train positives are the cold slice."""
    resamples: NonNegativeInt = 2000
    """Bootstrap draws behind each interval; 0 leaves intervals out. Memory: 8 bytes for each draw, slice and metric."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Share of the draws that an interval holds."""

    def __post_init__(self) -> None:
        for name in ("ks", "history_edges"):
            values = getattr(self, name)
            if not values or sorted(set(values)) != list(values):
                raise ValueError(f"{name} = {values} must be rising, with at least one number")
