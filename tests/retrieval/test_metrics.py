"""Metrics against loops over the definitions, and the algebra of their sums."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esans.retrieval.metrics import MetricSums, ranking_metrics, reduce_sums
from esans.retrieval.ragged import Ragged

# Ranks of one user are distinct, but for 0, which means "cannot be found".
user_ranks = st.lists(st.integers(0, 300), max_size=8).map(lambda row: [r for i, r in enumerate(row) if r == 0 or r not in row[:i]])
many_users = st.lists(user_ranks, min_size=0, max_size=20)


def naive(users: list[list[int]]) -> dict[str, list[float]]:
    result: dict[str, list[float]] = {}
    for ranks in users:
        if not ranks:
            continue
        for k in (10, 50, 200):
            hits = [r for r in ranks if 1 <= r <= k]
            result.setdefault(f"recall@{k}", []).append(len(hits) / len(ranks))
            result.setdefault(f"hit_rate@{k}", []).append(1.0 if hits else 0.0)
        gain = sum(1 / math.log2(r + 1) for r in ranks if 1 <= r <= 50)
        ideal = sum(1 / math.log2(i + 1) for i in range(1, min(len(ranks), 50) + 1))
        result.setdefault("ndcg@50", []).append(gain / ideal)
        result.setdefault("mrr", []).append(max((1 / r for r in ranks if r), default=0.0))
    return result


@settings(max_examples=60, deadline=None)
@given(many_users)
def test_means_and_standard_errors_are_those_of_the_definitions(users):
    sums, expected = ranking_metrics(Ragged.from_lists(users)), naive(users)
    means, errors = sums.means(), sums.standard_errors()
    assert sums.users == len([u for u in users if u])
    for name, values in expected.items():
        mean = sum(values) / len(values)
        assert math.isclose(means[name], mean, abs_tol=1e-8)
        if len(values) > 1:
            error = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
            assert math.isclose(errors[name], error, abs_tol=1e-4)


@settings(max_examples=40, deadline=None)
@given(many_users, st.integers(0, 20))
def test_sums_of_parts_are_bit_for_bit_the_sums_of_the_whole(users, cut):
    whole = ranking_metrics(Ragged.from_lists(users))
    parts = ranking_metrics(Ragged.from_lists(users[cut:])).add(ranking_metrics(Ragged.from_lists(users[:cut])))
    assert torch.equal(whole.pack(), parts.pack())
    assert torch.equal(whole.unpack(whole.pack()).pack(), whole.pack())
    assert torch.equal(MetricSums.zero().add(whole).pack(), whole.pack())


def test_the_histogram_counts_every_target():
    sums = ranking_metrics(Ragged.from_lists([[1, 0], [5000, 3]]))
    assert sums.histogram.sum() == 4 == sums.targets
    assert [int(sums.histogram[place]) for place in (0, 1, 3, -1)] == [1, 1, 1, 1]


def test_a_perfect_basket_has_ndcg_1():
    assert math.isclose(ranking_metrics(Ragged.from_lists([[2, 1, 3]])).means()["ndcg@50"], 1.0, abs_tol=1e-9)


def test_without_torch_distributed_reducing_changes_nothing():
    sums = {"all": ranking_metrics(Ragged.from_lists([[1]]))}
    assert torch.equal(reduce_sums(sums)["all"].pack(), sums["all"].pack())
