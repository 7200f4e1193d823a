"""Item-kNN: candidates scored by their similarity to the user's history, tuned on the validation split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from esans.progress import Bar
from esans.references.cooccurrence import TrainMatrix
from esans.references.neighbours import Neighbours, find_neighbours
from esans.retrieval.evaluation import Catalogue
from esans.retrieval.metrics import ranking_metrics
from esans.retrieval.topk import rank_and_retrieve
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


def tune(matrix: TrainMatrix, users: Sequence[UserBatch], catalogue: Catalogue, config: KnnConfig) -> tuple[list[Trial], sp.csr_matrix]:
    """Try every setting on the given validation users: similarity, k and side first, then recency for the best three.

    Returns:
        trials, best first, and the similarities (history item, candidate) of the best.
    """
    trials: list[Trial] = []
    kept: dict[Choice, sp.csr_matrix] = {}
    total = len(config.similarities) * len(list(_cuts(config, None))) + 3 * len(config.half_lives)
    with Bar("item-kNN on validation", total, "settings") as bar:
        for similarity in config.similarities:
            neighbours = _neighbours(matrix, similarity, config)
            for k, side in _cuts(config, neighbours):
                choice = Choice(similarity, k, side)
                similarities = neighbours.matrix(k, side)
                trials.append(Trial(choice, _recall(choice, similarities, users, catalogue, config.tune_by)))
                kept[choice] = similarities
                kept = {best.choice: kept[best.choice] for best in _best(trials)[:3]}
                bar.update(len(trials), f"best recall@{config.tune_by} {_best(trials)[0].recall:.4f}")
        for base in _best(trials)[:3]:
            for half_life in config.half_lives:
                choice = Choice(base.choice.similarity, base.choice.k, base.choice.side, half_life)
                trials.append(Trial(choice, _recall(choice, kept[base.choice], users, catalogue, config.tune_by)))
                bar.update(len(trials))
    winner = _best(trials)[0].choice
    return _best(trials), kept[Choice(winner.similarity, winner.k, winner.side)]


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


def _recall(choice: Choice, similarities: sp.csr_matrix, users: Sequence[UserBatch], catalogue: Catalogue, k: int) -> float:
    sums = None
    for batch in users:
        scorer = KnnScorer(batch, similarities, choice.half_life, catalogue.counts)
        ranks, _ = rank_and_retrieve(scorer, catalogue.num_items, batch.targets, batch.seen, catalogue.available)
        part = ranking_metrics(ranks, [k], k)
        sums = part if sums is None else sums.add(part)
    return sums.means()[f"recall@{k}"] if sums is not None else float("nan")
