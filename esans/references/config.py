"""Configuration of the references stage."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from esans.config import PositiveFloat, PositiveInt, Runtime, config, section
from esans.retrieval.config import MetricsConfig

Similarity = Literal["cosine", "shrunk_cosine", "jaccard", "bm25", "bm25_cosine"]
Side = Literal["candidate", "history"]
Weighting = Literal["plain", "bm25"]
Interval = tuple[PositiveFloat, PositiveFloat]


@config
class KnnConfig:
    """Keys under `references.knn`: what is tried on the validation split; the best recall decides."""

    trials: PositiveInt | None = None
    """Settings tried, drawn at random from all combinations below without repeats; null walks the grid: recency for its best three."""
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
class SearchConfig:
    """What the searches for the settings of a factor model share: settings drawn at random, tried on the validation split."""

    trials: PositiveInt = 10
    """Settings tried; each range is cut into as many parts, and every part is tried once (a Latin hypercube)."""
    factors: list[PositiveInt] = dataclasses.field(default_factory=lambda: [32, 64, 128, 256])
    """Dimensions of the vectors to draw from."""
    tune_by: PositiveInt = 50
    """The k of the validation recall@k that decides."""
    tuning_users: PositiveInt = 2000
    """At most so many validation users, chosen by a hash, decide."""
    max_interactions: PositiveInt = 20_000_000
    """Train interactions held in memory, at 12 bytes each; above it whole users are sampled by a hash."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value == []:
                raise ValueError(f"{name} = []: give at least one")
            if isinstance(value, tuple) and value[0] > value[1]:
                raise ValueError(f"{name} = {list(value)}: give the lower end first")


@config
class AlsConfig(SearchConfig):
    """Keys under `references.als_search`: the space of ALS (Hu, Koren and Volinsky 2008)."""

    weightings: list[Weighting] = dataclasses.field(default_factory=lambda: ["plain", "bm25"])
    """Confidence of a train interaction, before `alpha`: 1, or its BM25 weight."""
    alpha: Interval = (0.3, 30.0)
    """Lowest and highest factor of the confidence, drawn log-uniformly; what was not bought has confidence 1."""
    regularization: Interval = (0.1, 100.0)
    """Lowest and highest L2 penalty, drawn log-uniformly."""
    iterations: tuple[PositiveInt, PositiveInt] = (5, 30)
    """Fewest and most iterations, drawn uniformly; one solves for all users, then for all items."""


@config
class BprConfig(SearchConfig):
    """Keys under `references.bpr_search`: the space of BPR matrix factorisation (Rendle et al. 2009)."""

    learning_rate: Interval = (0.005, 0.2)
    """Lowest and highest step of SGD, drawn log-uniformly."""
    regularization: Interval = (0.0001, 0.1)
    """Lowest and highest L2 penalty, drawn log-uniformly."""
    iterations: tuple[PositiveInt, PositiveInt] = (20, 300)
    """Fewest and most passes over the train interactions, drawn log-uniformly."""


@config
class ReferencesConfig:
    """Keys under `references`."""

    item_knn: bool = True
    """Evaluate item-kNN beside popularity."""
    knn: KnnConfig = section(KnnConfig)
    """What item-kNN tries."""
    als: bool = False
    """Evaluate ALS matrix factorisation too; needs the extra `baselines`."""
    als_search: AlsConfig = section(AlsConfig)
    """What ALS tries."""
    bpr: bool = False
    """Evaluate BPR matrix factorisation too; needs the extra `baselines`."""
    bpr_search: BprConfig = section(BprConfig)
    """What BPR tries."""
    metrics: MetricsConfig = section(MetricsConfig)
    """Metrics and slices; keep them equal to evaluate.metrics."""
    user_batch: Annotated[PositiveInt, Runtime] = 512
    """Users scored at a time."""
    item_chunk: Annotated[PositiveInt, Runtime] = 4096
    """Items ranked at a time; memory is user_batch * item_chunk * 48 bytes."""
