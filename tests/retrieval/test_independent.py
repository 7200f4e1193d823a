"""Metrics and ties against torchmetrics, an implementation that shares nothing with ours."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.retrieval import (
    retrieval_hit_rate,
    retrieval_normalized_dcg,
    retrieval_recall,
    retrieval_reciprocal_rank,
)

from esans.retrieval.metrics import user_metrics
from esans.retrieval.ragged import Ragged
from esans.retrieval.topk import rank_and_retrieve

ITEMS = 60


class Table:
    """Scores given as a (B, N) table."""

    def __init__(self, scores: torch.Tensor) -> None:
        self.scores = scores

    def chunk(self, start: int, stop: int) -> torch.Tensor:
        return self.scores[:, start:stop]

    def pairs(self, rows: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        return self.scores[rows, items]


def theirs(scores: torch.Tensor, relevant: torch.Tensor, k: int) -> dict[str, float]:
    return {
        f"recall@{k}": float(retrieval_recall(scores, relevant, top_k=k)),
        f"hit_rate@{k}": float(retrieval_hit_rate(scores, relevant, top_k=k)),
        f"ndcg@{k}": float(retrieval_normalized_dcg(scores, relevant, top_k=k)),
        "mrr": float(retrieval_reciprocal_rank(scores, relevant)),
    }


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 12), st.sampled_from([1, 3, 10]))
def test_ranks_and_metrics_of_several_targets_are_those_of_torchmetrics(seed, targets, k):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand((3, ITEMS), generator=generator)
    wanted = [torch.randperm(ITEMS, generator=generator)[:targets].tolist() for _ in range(3)]
    ranks, _ = rank_and_retrieve(Table(scores), ITEMS, Ragged.from_lists(wanted), item_chunk=17)
    ours = user_metrics(ranks, [k], k)
    for user in range(3):
        relevant = torch.zeros(ITEMS, dtype=torch.bool)
        relevant[wanted[user]] = True
        for name, value in theirs(scores[user], relevant, k).items():
            assert float(ours[name][user]) == pytest.approx(value, abs=1e-6), name


def test_masked_items_are_as_if_they_were_not_in_the_catalogue():
    generator = torch.Generator().manual_seed(1)
    scores, seen = torch.rand((1, ITEMS), generator=generator), list(range(0, ITEMS, 3))
    ranks, _ = rank_and_retrieve(Table(scores), ITEMS, Ragged.from_lists([[1, 2, 31]]), Ragged.from_lists([seen]))
    left = torch.tensor([item for item in range(ITEMS) if item not in seen])
    relevant = torch.isin(left, torch.tensor([1, 2, 31]))
    ours = user_metrics(ranks, [10], 10)
    for name, value in theirs(scores[0, left], relevant, 10).items():
        assert float(ours[name][0]) == pytest.approx(value, abs=1e-6), name


def test_ties_favour_nobody():
    """torchmetrics averages NDCG over all orders of equal scores; ours takes one order, and is right on average over the names of items."""
    generator = torch.Generator().manual_seed(2)
    scores = torch.randint(0, 4, (ITEMS,), generator=generator).float()
    relevant = torch.zeros(ITEMS, dtype=torch.bool)
    relevant[torch.randperm(ITEMS, generator=generator)[:5]] = True
    draws = 2000
    names = torch.stack([torch.randperm(ITEMS, generator=generator) for _ in range(draws)])
    renamed = torch.empty((draws, ITEMS)).scatter_(1, names, scores.expand(draws, -1))
    wanted = Ragged.from_lengths(torch.full((draws,), 5), names[:, relevant].flatten())
    ranks, _ = rank_and_retrieve(Table(renamed), ITEMS, wanted)
    ours = user_metrics(ranks, [10], 10)["ndcg@10"]
    error = float(ours.std()) / draws**0.5
    assert error > 0.001
    assert float(ours.mean()) == pytest.approx(float(retrieval_normalized_dcg(scores, relevant, top_k=10)), abs=4 * error)
