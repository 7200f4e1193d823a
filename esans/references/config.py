"""Configuration of the references stage."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from esans.config import PositiveFloat, PositiveInt, Runtime, config, section
from esans.retrieval.config import MetricsConfig

Similarity = Literal["cosine", "shrunk_cosine", "jaccard", "bm25", "bm25_cosine"]
Side = Literal["candidate", "history"]


@config
class KnnConfig:
    """Keys under `references.knn`: what is tried on the validation split; the best recall decides."""

    neighbours: list[PositiveInt | Literal["all"]] = dataclasses.field(default_factory=lambda: [5, 10, 20, 50, 100, "all"])
    """How many most similar items count; `all` is tried only where the item-item matrix is small enough (max_entries)."""
    similarities: list[Similarity] = dataclasses.field(default_factory=lambda: ["cosine", "jaccard", "bm25"])
    """Item-item similarities over co-occurrence in train; besides the default there are `shrunk_cosine` and `bm25_cosine`."""
    sides: list[Side] = dataclasses.field(default_factory=lambda: ["candidate", "history"])
    """Whose neighbour lists are cut: the candidate's (it needs a history item among its nearest) or the history items' own."""
    half_lives: list[PositiveFloat] = dataclasses.field(default_factory=lambda: [5, 10, 20, 50])
    """Recency weights to try for the winner, in positions of the history after which the weight halves; no weighting is always tried."""
    shrinkage: PositiveFloat = 20.0
    """Added to the denominator of `shrunk_cosine`, in users."""
    tune_by: PositiveInt = 50
    """The k of the validation recall@k that decides."""
    tuning_users: PositiveInt = 2000
    """At most so many validation users, chosen by a hash, decide."""
    max_interactions: PositiveInt = 20_000_000
    """Train interactions held in memory, at 12 bytes each; above it whole users are sampled by a hash."""
    max_items: PositiveInt = 500_000
    """Catalogue above which item-kNN is left out: neighbour lists take 8 bytes for each of the most `neighbours` an item."""
    max_entries: PositiveInt = 30_000_000
    """Entries of the item-item matrix up to which `all` neighbours are tried, at 12 bytes each."""
    max_user_items: PositiveInt = 5000
    """Users with more distinct train items are left out of the co-occurrence, which costs the square of this number."""

    def __post_init__(self) -> None:
        for name in ("neighbours", "similarities", "sides"):
            if not getattr(self, name):
                raise ValueError(f"{name} = []: give at least one, or set references.item_knn=false")


@config
class ReferencesConfig:
    """Keys under `references`."""

    item_knn: bool = True
    """Evaluate item-kNN beside popularity."""
    knn: KnnConfig = section(KnnConfig)
    """What item-kNN tries."""
    metrics: MetricsConfig = section(MetricsConfig)
    """Metrics and slices; keep them equal to evaluate.metrics."""
    user_batch: Annotated[PositiveInt, Runtime] = 512
    """Users scored at a time."""
    item_chunk: Annotated[PositiveInt, Runtime] = 4096
    """Items ranked at a time; memory is user_batch * item_chunk * 48 bytes."""
