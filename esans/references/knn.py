"""Item-kNN: candidates scored by their similarity to the user's history, tuned on the validation split."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from esans.errors import ConfigError
from esans.progress import Bar
from esans.references.cooccurrence import TrainMatrix
from esans.references.measure import validation_recall
from esans.references.neighbours import Neighbours, find_neighbours
from esans.retrieval.evaluation import Catalogue
from esans.retrieval.users import UserBatch

if TYPE_CHECKING:
    from esans.references.config import KnnConfig, Side, Similarity


@dataclass(frozen=True)
class Choice:
    """One setting of item-kNN. `k` None means all neighbours, `half_life` None equal weights over all distinct earlier items."""

    similarity: Similarity
    k: int | None
    side: Side
    half_life: float | None = None

    def without_recency(self) -> Choice:
        """The same similarities, with equal weights."""
        return dataclasses.replace(self, half_life=None)

    def __str__(self) -> str:
        lists = f"{self.k} neighbours of the {'candidate' if self.side == 'candidate' else 'history item'}" if self.k else "all neighbours"
        recency = f"recency half-life {self.half_life:g} positions" if self.half_life else "equal history weights"
        return f"{self.similarity}, {lists}, {recency}"


@dataclass(frozen=True)
class Trial:
    """A setting and its validation recall."""

    choice: Choice
    recall: float


class KnnScorer:
    """Scores of a batch of users: similarity summed over the history; items without any follow by popularity, below zero."""

    def __init__(self, batch: UserBatch, similarities: sp.csr_matrix, half_life: float | None, counts: Tensor) -> None:
        self._by_item = (history_matrix(batch, similarities.shape[0], half_life) @ similarities).tocsc()
        self._floor = counts.float() / max(float(counts.max()), 1.0) - 1.0

    def chunk(self, start: int, stop: int) -> Tensor:
        """(B, stop - start) float32."""
        scores = torch.from_numpy(self._by_item[:, start:stop].toarray(order="C"))
        return torch.where(scores > 0, scores, self._floor[start:stop])

    def pairs(self, rows: Tensor, items: Tensor) -> Tensor:
        """(n,) float32."""
        found = self._by_item[np.array(rows), np.array(items)]  # copies: scipy wants arrays that own their memory
        scores = torch.from_numpy(np.asarray(found, dtype=np.float32).ravel())
        return torch.where(scores > 0, scores, self._floor[items])


def history_matrix(batch: UserBatch, num_items: int, half_life: float | None) -> sp.csr_matrix:
    """(B, num_items) float32 weights: 1 for every distinct earlier item, or halved every `half_life` positions back in time."""
    if half_life is None:
        source, weights = batch.seen, torch.ones(len(batch.seen.values))
    else:
        source = batch.history
        back = source.offsets[source.rows + 1] - 1 - torch.arange(len(source.values))
        weights = torch.exp2(-back.double() / half_life).float()
    shape = (len(batch), num_items)
    return sp.csr_matrix((weights.numpy(), (source.rows.numpy(), source.values.numpy())), shape=shape)


def tune(
    matrix: TrainMatrix, users: Sequence[UserBatch], catalogue: Catalogue, config: KnnConfig, seed: int = 0
) -> tuple[list[Trial], sp.csr_matrix]:
    """Try settings on the given validation users: `config.trials` drawn with `seed`, or the grid where that is None.

    Fewer are drawn where there are no more. The grid is similarity, k and side first, then recency for the best three.

    Returns:
        trials, best first, and the similarities (history item, candidate) of the best.

    Raises:
        ConfigError: only `all` neighbours may be tried, and they are too many to be kept.
    """
    drawn = None if config.trials is None else settings(config, seed)
    grid = len(config.similarities) * len(list(_cuts(config, None))) + 3 * len(config.half_lives)
    total = grid if config.trials is None or drawn is None else min(config.trials, len(drawn))
    with Bar("item-kNN on validation", total, "settings") as bar:
        trying = _Trying(users, catalogue, config, bar)
        if drawn is None:
            _walk_the_grid(trying, matrix, config)
        else:
            _try_drawn(trying, matrix, config, drawn)
    if not trying.trials:
        raise ConfigError(
            "references.knn.neighbours = ['all']: the item-item matrix has more entries than references.knn.max_entries.\n"
            "Add numbers of neighbours, or raise max_entries."
        )
    best = _best(trying.trials)
    return best, trying.kept[best[0].choice.without_recency()]


def settings(config: KnnConfig, seed: int) -> list[Choice]:
    """All combinations of similarity, neighbours, side and recency, in an order drawn with `seed`."""
    recencies = [None, *config.half_lives]
    every = [
        Choice(similarity, *cut, half_life) for similarity, cut, half_life in product(config.similarities, _cuts(config, None), recencies)
    ]
    return [every[place] for place in np.random.default_rng(seed).permutation(len(every))]


class _Trying:
    """Trials so far, and the similarities of the three best of them."""

    def __init__(self, users: Sequence[UserBatch], catalogue: Catalogue, config: KnnConfig, bar: Bar) -> None:
        self._users, self._catalogue, self._k, self._bar = users, catalogue, config.tune_by, bar
        self.trials: list[Trial] = []
        self.kept: dict[Choice, sp.csr_matrix] = {}

    def __call__(self, choice: Choice, similarities: sp.csr_matrix) -> None:
        counts = self._catalogue.counts

        def scorer_of(batch: UserBatch) -> KnnScorer:
            return KnnScorer(batch, similarities, choice.half_life, counts)

        recall = validation_recall(scorer_of, self._users, self._catalogue, self._k)
        self.trials.append(Trial(choice, recall))
        self.kept[choice.without_recency()] = similarities
        leaders = {trial.choice.without_recency() for trial in _best(self.trials)[:3]}
        self.kept = {choice: self.kept[choice] for choice in self.kept if choice in leaders}
        self._bar.update(len(self.trials), f"best recall@{self._k} {_best(self.trials)[0].recall:.4f}")


def _walk_the_grid(trying: _Trying, matrix: TrainMatrix, config: KnnConfig) -> None:
    for similarity in config.similarities:
        neighbours = _neighbours(matrix, similarity, config)
        for k, side in _cuts(config, neighbours):
            trying(Choice(similarity, k, side), neighbours.matrix(k, side))
    for base, similarities in [(trial.choice, trying.kept[trial.choice]) for trial in _best(trying.trials)[:3]]:
        for half_life in config.half_lives:
            trying(dataclasses.replace(base, half_life=half_life), similarities)


def _try_drawn(trying: _Trying, matrix: TrainMatrix, config: KnnConfig, drawn: Sequence[Choice]) -> None:
    neighbours = _neighbours(matrix, drawn[0].similarity, config)
    # All similarities have the entries of the same co-occurrence: `all` fits every one of them or none.
    chosen = [choice for choice in drawn if choice.k is not None or neighbours.every is not None][: config.trials]
    for place, similarity in enumerate(dict.fromkeys([drawn[0].similarity, *(choice.similarity for choice in chosen)])):
        neighbours = neighbours if place == 0 else _neighbours(matrix, similarity, config)
        for choice in chosen:
            if choice.similarity == similarity:
                trying(choice, neighbours.matrix(choice.k, choice.side))


def _neighbours(matrix: TrainMatrix, similarity: Similarity, config: KnnConfig) -> Neighbours:
    largest = max([k for k in config.neighbours if isinstance(k, int)], default=1)
    entries = config.max_entries if "all" in config.neighbours else 0
    return find_neighbours(matrix.users_items, similarity, largest, config.shrinkage, entries)


def _cuts(config: KnnConfig, neighbours: Neighbours | None) -> Iterator[tuple[int | None, Side]]:
    for k in config.neighbours:
        if isinstance(k, int):
            for side in config.sides:
                yield k, side
        elif neighbours is None or neighbours.every is not None:
            yield None, "candidate"


def _best(trials: Sequence[Trial]) -> list[Trial]:
    return sorted(trials, key=lambda trial: -trial.recall)  # stable: the first tried wins a tie
