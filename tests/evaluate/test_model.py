"""Any model on any split: a champion on the next day's catalogue, and two models on the same users."""

from __future__ import annotations

import pytest

from esans.config import build
from esans.errors import BundleError
from esans.evaluate import compare, evaluate_model
from esans.evaluate.config import EvaluateConfig
from esans.retrieval.paired import paired_bootstrap
from esans.retrieval.slices import EVERYBODY
from tests.evaluate.models import train_bundle
from tests.retrieval.small import random_users, write_prepare

CONFIG = {"metrics": {"ks": [5, 20], "ndcg_k": 10, "resamples": 200}}


def test_a_model_from_before_the_newest_items_is_evaluated_without_them(tmp_path):
    users = random_users(7, 30, 64)
    prepare, model = write_prepare(tmp_path, users, 64), train_bundle(tmp_path, 50, num_users=10)
    done = evaluate_model(model, prepare, build(EvaluateConfig, CONFIG))["test"].evaluation
    new = sum(item >= 50 for user in users.values() for item in user["test"])
    assert new
    assert done.overall.users == 30
    assert done.overall.histogram[0] == new
    assert done.headline()["coverage@10"] <= 1
    assert not done.recommended.covered[50:].any()


def test_a_model_of_a_later_catalogue_is_refused(tmp_path):
    prepare, model = write_prepare(tmp_path, random_users(7, 9, 30), 30), train_bundle(tmp_path, 64)
    with pytest.raises(BundleError) as error:
        evaluate_model(model, prepare)
    assert str(error.value) == (
        f"the model of {model.uri} knows 64 items, and {prepare.uri} holds 30: it was trained on another or a later prepare bundle. "
        "Take that one, or one built on it (prepare.previous)."
    )


def test_two_models_are_compared_on_the_same_users_slice_by_slice(tmp_path):
    import pyarrow.parquet as pq

    prepare = write_prepare(tmp_path, random_users(7, 60, 64), 64)
    tables, evaluations = [], []
    for seed in (0, 1):
        folder = tmp_path / f"users-{seed}"
        counted = evaluate_model(train_bundle(tmp_path, 64, seed=seed), prepare, build(EvaluateConfig, CONFIG), per_user_uri=str(folder))
        evaluations.append(counted["test"].evaluation)
        tables.append(pq.read_table(folder).to_pandas().sort_values("user_idx"))
    found = compare(*evaluations, resamples=4000)
    assert {key.slice for key, _ in found} == {"all", "history", "popularity", "cold"}
    for metric in ("recall@20", "ndcg@10", "mrr"):
        one = found[EVERYBODY, metric]
        by_user = paired_bootstrap(*(table[metric.replace("@", "_at_")].to_numpy() for table in tables), resamples=4000)
        assert one.users == by_user.users == 60
        assert one.difference == pytest.approx(by_user.difference, abs=1e-8)
        assert one.p == pytest.approx(by_user.p, abs=0.1)
        assert one.high - one.low == pytest.approx(by_user.high - by_user.low, rel=0.3)
    assert found[EVERYBODY, "mrr"].mean_a == pytest.approx(evaluations[0].overall.means()["mrr"])
    same = compare(evaluations[0], evaluations[0], resamples=100)
    assert {result.p for result in same.values() if result.users > 1} == {1.0}


def test_models_of_different_users_are_not_compared(tmp_path):
    model = train_bundle(tmp_path, 64)
    done = [
        evaluate_model(model, write_prepare(tmp_path / str(users), random_users(7, users, 64), 64), build(EvaluateConfig, CONFIG))["test"]
        for users in (10, 11)
    ]
    with pytest.raises(ValueError) as error:
        compare(done[0].evaluation, done[1].evaluation)
    assert str(error.value) == (
        "two evaluations can be compared where both ranked the same users of one split, with the same metrics and slices"
    )
