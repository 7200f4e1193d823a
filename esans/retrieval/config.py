"""Which metrics and slices are computed: shared by the stages that evaluate, so that their tables can stand side by side."""

from __future__ import annotations

import dataclasses

from esans.config import PositiveInt, config


@config
class MetricsConfig:
    """Keys under `evaluate.metrics` and `references.metrics`; keep the two alike, or the tables cannot be compared."""

    ks: list[PositiveInt] = dataclasses.field(default_factory=lambda: [10, 50, 200])
    """Cut-offs of recall and hit rate, in items, rising."""
    ndcg_k: PositiveInt = 50
    """Cut-off of NDCG and of coverage, in items."""
    popularity_buckets: PositiveInt = 10
    """Buckets of items by train positives, with about equal numbers of items; equal counts share a bucket, cold items have their own."""
    history_edges: list[PositiveInt] = dataclasses.field(default_factory=lambda: [5, 10, 20, 50, 100])
    """Lower ends of the history-length slices, in distinct earlier items, rising; the first slice starts at 0."""

    def __post_init__(self) -> None:
        for name in ("ks", "history_edges"):
            values = getattr(self, name)
            if not values or sorted(set(values)) != list(values):
                raise ValueError(f"{name} = {values} must be rising, with at least one number")
