"""Evaluation of a model on the users of a split: the same as the definitions say, however the users are batched."""

from __future__ import annotations

import pytest
import torch

from esans.evaluate.users import evaluate_users
from esans.retrieval.config import MetricsConfig
from esans.retrieval.encode import encode_catalogue, encode_users
from esans.retrieval.evaluation import Catalogue
from esans.retrieval.metrics import ranking_metrics
from esans.retrieval.topk import rank_targets
from esans.retrieval.users import user_batches
from tests.retrieval.small import Stub, random_users, write_prepare


@pytest.fixture(scope="module")
def prepare(tmp_path_factory):
    return write_prepare(tmp_path_factory.mktemp("evaluate"), random_users(7, 43, 64), 64, unavailable=(3, 9))


def test_streaming_gives_the_metrics_of_all_users_at_once(prepare):
    model, catalogue, config = Stub(64), Catalogue.read(prepare), MetricsConfig()
    items = encode_catalogue(model, chunk=10)
    (everyone,) = user_batches(prepare.table("histories"), "test", 1000)
    ranks = rank_targets(encode_users(model, everyone), items, everyone.targets, everyone.seen, catalogue.available)
    streamed = evaluate_users(model, items, prepare.table("histories"), "test", catalogue, config, user_batch=7, item_chunk=9)
    assert torch.equal(streamed.overall.histogram, ranking_metrics(ranks).histogram)
    assert streamed.overall.means() == ranking_metrics(ranks).means()


def test_histories_reach_the_model_padded_at_the_left_with_the_newest_last(prepare):
    seen: list[torch.Tensor] = []

    class Spy(Stub):
        def encode_users(self, history, user_idx=None):
            seen.append(history)
            return super().encode_users(history, user_idx)

    batch = next(iter(user_batches(prepare.table("histories"), "test", 4)))
    encode_users(Spy(64, history_length=30), batch)
    for row in range(len(batch)):
        history = batch.history.slice(row, row + 1).values.tolist()
        assert seen[0][row].tolist() == [-1] * (30 - len(history)) + history


def test_items_and_users_that_came_after_training_are_unknown_to_the_model(prepare):
    told: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Spy(Stub):
        def encode_users(self, history, user_idx=None):
            told.append((history, user_idx))
            return super().encode_users(history, user_idx)

    model = Spy(40, history_length=30)
    model.num_users = 2
    batch = next(iter(user_batches(prepare.table("histories"), "test", 5)))
    encode_users(model, batch)
    history, users = told[0]
    assert users.tolist() == [0, 1, -1, -1, -1]
    for row in range(len(batch)):
        known = [item for item in batch.history.slice(row, row + 1).values.tolist() if item < 40]
        assert history[row].tolist() == [-1] * (30 - len(known)) + known
    padded = encode_catalogue(model, size=64)
    assert padded[40:].eq(0).all()
    assert torch.equal(padded[:40], encode_catalogue(model))
