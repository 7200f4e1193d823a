"""Streaming users, slices and the evaluation that references and models share."""

from __future__ import annotations

import math

import pytest
import torch

from esans.config import build
from esans.errors import ConfigError
from esans.retrieval.config import MetricsConfig
from esans.retrieval.evaluation import Catalogue, Evaluation, evaluate_batches
from esans.retrieval.metrics import ranking_metrics
from esans.retrieval.scorers import StaticScorer
from esans.retrieval.topk import rank_and_retrieve
from esans.retrieval.users import user_batches

from .small import random_users, write_prepare


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_the_batches_of_one_process(tmp_path, world_size):
    histories = write_prepare(tmp_path, random_users(1, 23, 40), 40).table("histories")
    alone = list(user_batches(histories, "test", 4))
    assert [len(batch) for batch in alone] == [4, 4, 4, 4, 4, 3]
    for rank in range(world_size):
        mine = list(user_batches(histories, "test", 4, rank, world_size))
        assert [b.users.tolist() for b in mine] == [b.users.tolist() for b in alone[rank::world_size]]
        assert [b.seen.values.tolist() for b in mine] == [b.seen.values.tolist() for b in alone[rank::world_size]]


def test_a_split_without_users_gives_no_batch(tmp_path):
    bundle = write_prepare(tmp_path, {0: {"train": [0, 1]}}, 3)
    assert list(user_batches(bundle.table("histories"), "test", 4)) == []


def test_an_evaluation_counts_coverage_unreachable_targets_and_slices(tmp_path):
    users = {0: {"train": [0, 1], "test": [2, 3]}, 1: {"train": [0], "test": [3]}}
    prepare = write_prepare(tmp_path, users, 5, unavailable=(3,))
    catalogue = Catalogue.read(prepare)
    config = MetricsConfig(ks=[1, 2], ndcg_k=2, popularity_buckets=2, history_edges=[2])
    scores = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])
    done = evaluate_batches(user_batches(prepare.table("histories"), "test", 8), lambda b: StaticScorer(scores, len(b)), catalogue, config)
    assert done.headline()["recall@1"] == 0.25  # item 2 comes first for user 0; item 3 is unavailable
    assert done.headline()["unreachable_targets"] == pytest.approx(2 / 3)
    assert done.headline()["coverage@2"] == 3 / 4  # items 2 and 4, and 1 for user 1
    rows = {(row["slice"], row["label"], row["metric"]): row for row in done.rows("m", "test")}
    assert rows[("history", "2+", "recall@1")]["value"] == 0.5
    assert rows[("all", "all", "recall@1")]["users"] == 2
    assert {row["targets"] for row in rows.values() if row["slice"] == "all"} == {3}


def everyone(seed: int, users: int, items: int, tmp_path, **keys):
    prepare = write_prepare(tmp_path, random_users(seed, users, items), items, unavailable=(1,))
    catalogue, config = Catalogue.read(prepare), MetricsConfig(ks=[2, 5], ndcg_k=5, **keys)
    scores = torch.rand((10_000, items), generator=torch.Generator().manual_seed(seed))

    batches = list(user_batches(prepare.table("histories"), "test", 7))
    return catalogue, batches, evaluate_batches(batches, lambda b: _Rows(scores[b.users]), catalogue, config), scores


def test_what_lists_hold_is_counted_as_the_definitions_say(tmp_path):
    catalogue, batches, done, scores = everyone(3, 29, 40, tmp_path)
    counts, lists, chosen = catalogue.counts.tolist(), [], []
    for batch in batches:
        for row, user in enumerate(batch.users.tolist()):
            seen = set(batch.seen.slice(row, row + 1).values.tolist())
            allowed = [item for item in range(40) if item not in seen and item != 1]
            lists.append(sorted(allowed, key=lambda item, user=user: -scores[user, item])[:5])
            chosen += batch.targets.slice(row, row + 1).values.tolist()
    items = [item for row in lists for item in row]
    headline = done.headline()
    assert headline["coverage@5"] == len(set(items)) / 39
    bits = [-math.log2((counts[item] + 1) / (sum(counts) + 40)) for item in items]
    assert headline["novelty@5"] == pytest.approx(sum(bits) / len(bits), abs=1e-5)
    mean = lambda of: sum(counts[item] for item in of) / len(of)  # noqa: E731
    assert headline["popularity_lift@5"] == pytest.approx(mean(items) / mean(chosen))


def test_the_lists_of_a_popularity_ranking_are_far_above_what_users_choose(tmp_path):
    prepare = write_prepare(tmp_path, random_users(4, 60, 64), 64)
    catalogue, batches = Catalogue.read(prepare), list(user_batches(prepare.table("histories"), "test", 16))
    popular = evaluate_batches(batches, lambda b: StaticScorer(catalogue.counts.float(), len(b)), catalogue, MetricsConfig(ndcg_k=5))
    rare = evaluate_batches(batches, lambda b: StaticScorer(-catalogue.counts.float(), len(b)), catalogue, MetricsConfig(ndcg_k=5))
    assert popular.headline()["popularity_lift@5"] > 1.3 > 0.7 > rare.headline()["popularity_lift@5"]
    assert popular.headline()["novelty@5"] < rare.headline()["novelty@5"]


def test_every_metric_of_every_slice_has_the_interval_of_its_users(tmp_path):
    catalogue, _, done, _ = everyone(5, 150, 60, tmp_path, resamples=1000)
    rows = done.rows("m", "test", seed=1)
    assert rows == done.rows("m", "test", seed=1)
    for row in rows:
        if row["users"] > 1 and not row["metric"].startswith("coverage"):
            assert row["low"] <= row["value"] <= row["high"], row
    (overall,) = [row for row in rows if (row["slice"], row["metric"]) == ("all", "recall@5")]
    assert overall["high"] - overall["low"] == pytest.approx(2 * 1.96 * overall["standard_error"], rel=0.15)
    wider = Evaluation(catalogue, MetricsConfig(ks=[2, 5], ndcg_k=5, resamples=1000, confidence=0.99)).take(done.state())
    (wide,) = [row for row in wider.rows("m", "test", seed=1) if (row["slice"], row["metric"]) == ("all", "recall@5")]
    assert wide["low"] < overall["low"] < overall["high"] < wide["high"]
    none = Evaluation(catalogue, MetricsConfig(ks=[2, 5], ndcg_k=5, resamples=0)).take(done.state())
    assert all(math.isnan(row["low"]) for row in none.rows("m", "test"))


def test_slice_sums_are_the_metrics_of_the_users_that_a_slice_holds(tmp_path):
    catalogue, batches, done, scores = everyone(6, 60, 50, tmp_path)
    evaluation = Evaluation(catalogue, done.config)
    by_key: dict = {}
    for batch in batches:
        ranks, _ = rank_and_retrieve(_Rows(scores[batch.users]), 50, batch.targets, batch.seen, catalogue.available)
        for places in evaluation.slices.places(batch.targets.rows, batch.targets.values, batch.seen.lengths):
            for place in places.unique().tolist():
                part = ranking_metrics(ranks.keep(places == place), [2, 5], 5)
                key = evaluation.keys[place]
                by_key[key] = by_key[key].add(part) if key in by_key else part
    for key, sums in done.sums.items():
        if key in by_key:
            assert torch.equal(sums.pack(), by_key[key].pack()), key
        else:
            assert sums.users == 0


class _Rows:
    def __init__(self, rows):
        self.rows = rows

    def chunk(self, start, stop):
        return self.rows[:, start:stop]

    def pairs(self, rows, items):
        return self.rows[rows, items]


def test_cut_offs_must_rise():
    with pytest.raises(ConfigError) as error:
        build(MetricsConfig, {"ks": [50, 10]})
    assert str(error.value) == "ks = [50, 10] must be rising, with at least one number"
