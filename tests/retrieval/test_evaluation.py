"""Streaming users, slices and the evaluation that references and models share."""

from __future__ import annotations

import pytest
import torch

from esans.config import build
from esans.errors import ConfigError
from esans.retrieval.config import MetricsConfig
from esans.retrieval.evaluation import Catalogue, evaluate_batches
from esans.retrieval.ragged import Ragged
from esans.retrieval.scorers import StaticScorer
from esans.retrieval.slices import HISTORY_LENGTH, POPULARITY, Slices
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


def test_popularity_buckets_hold_equal_counts_together_and_keep_cold_items_apart():
    counts = torch.tensor([0, 1, 1, 1, 1, 1, 2, 3, 9, 0])
    slices = Slices.build(counts, 4, [5])
    assert slices.bucket_labels[0] == "cold"
    for bucket, label in enumerate(slices.bucket_labels):
        inside = counts[slices.bucket_N == bucket]
        low, _, high = label.partition("-")
        if bucket:
            assert (inside >= int(low)).all()
            assert (inside <= int(high or low)).all()
            assert len(inside)
        else:
            assert (inside == 0).all()
    assert sum(len(counts[slices.bucket_N == b]) for b in range(len(slices.bucket_labels))) == len(counts)


def test_a_catalogue_without_train_positives_is_all_cold():
    slices = Slices.build(torch.zeros(4, dtype=torch.int64), 10, [5])
    assert slices.bucket_labels[0] == "cold"
    assert slices.bucket_N.tolist() == [0] * 4


def test_slices_part_the_targets_and_the_users():
    slices = Slices.build(torch.tensor([0, 5, 9]), 2, [2, 4])
    targets, ranks = Ragged.from_lists([[0, 1], [2], [1]]), Ragged.from_lists([[3, 1], [2], [1]])
    cut = list(slices.cut(ranks, targets, torch.tensor([1, 2, 9])))
    for name in (POPULARITY, HISTORY_LENGTH):
        assert sum(len(part.values) for key, part in cut if key.slice == name) == 4
    by_length = [part.lengths.tolist() for key, part in cut if key.slice == HISTORY_LENGTH]
    assert by_length == [[2, 0, 0], [0, 1, 0], [0, 0, 1]]


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


def test_cut_offs_must_rise():
    with pytest.raises(ConfigError) as error:
        build(MetricsConfig, {"ks": [50, 10]})
    assert str(error.value) == "ks = [50, 10] must be rising, with at least one number"
