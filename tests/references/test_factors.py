"""ALS and BPR against worked numbers, a planted world, and the number of trials that was asked for."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esans.bundle import Bundle
from esans.config import build
from esans.errors import ConfigError, DataError
from esans.references import packages, tuned
from esans.references.config import AlsConfig, BprConfig, KnnConfig, ReferencesConfig
from esans.references.cooccurrence import Bm25, train_matrix
from esans.references.factors import Als, AlsSetting, Bpr, BprSetting, FactorScorer, ItemFactors
from esans.references.knn import settings as knn_settings
from esans.references.knn import tune
from esans.references.measure import tuning_users, validation_recall
from esans.references.names import ALS, ITEM_KNN
from esans.references.stage import References
from esans.retrieval.evaluation import Catalogue
from esans.retrieval.scorers import StaticScorer
from tests.references.test_knn import batch_of
from tests.references.test_stage import run
from tests.retrieval.small import random_users, write_prepare

QUICK_ALS = {"trials": 3, "tune_by": 10, "factors": [8], "iterations": [5, 10]}
QUICK_BPR = {"trials": 3, "tune_by": 10, "factors": [8], "iterations": [100, 200], "learning_rate": [0.05, 0.2]}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Bundle:
    """Four tastes of 12 items each: what the users of a taste buy is as good as never the most popular."""
    return write_prepare(tmp_path_factory.mktemp("world"), random_users(5, 120, 48), 48)


def als_by_hand(train: np.ndarray, confidence: np.ndarray, items: np.ndarray, regularization: float, user: int) -> np.ndarray:
    """x = (Y^T C Y + r I)^-1 Y^T C p, with confidence 1 where nothing was bought."""
    weights = np.where(train[user] > 0, confidence[user], 1.0)
    return np.linalg.solve(
        items.T @ (weights[:, None] * items) + regularization * np.eye(items.shape[1]), items.T @ (weights * train[user])
    )


@pytest.mark.parametrize("weighting", ["plain", "bm25"])
def test_als_users_solve_their_normal_equations_and_scores_are_user_times_item(weighting):
    dense = (np.random.default_rng(0).random((20, 12)) < 0.3).astype(np.float32)
    train = sp.csr_matrix(dense)
    model = Als(train, AlsSetting(weighting, 5.0, 4, 0.3, 6), seed=1)
    histories = [[0, 3, 7], [11], [2, 4, 5, 6, 8]]
    own = np.zeros((3, 12), np.float32)
    for row, items in enumerate(histories):
        own[row, items] = 1
    weights = Bm25.of(train).weigh(sp.csr_matrix(own)).toarray() if weighting == "bm25" else own
    items = model.model.item_factors.astype(np.float64)
    expected = np.stack([als_by_hand(own, 5.0 * weights, items, 0.3, user) for user in range(3)])
    batch = batch_of(histories)
    vectors = model.user_vectors(batch)
    assert np.allclose(vectors, expected, atol=1e-4)
    scores = model(batch).chunk(0, 12).numpy()
    assert np.allclose(scores, vectors.astype(np.float64) @ items.T, atol=1e-6)


def test_a_worked_example_of_bm25_and_of_a_folded_in_user():
    # Two users of lengths 2 and 1, so a mean of 1.5; item 0 has both, item 1 one: idf ln(1 + 0.5/2.5) and ln(1 + 1.5/1.5).
    weigh = Bm25.of(sp.csr_matrix(np.array([[1, 1], [1, 0]], dtype=np.float32)))
    assert np.allclose(weigh.idf, [np.log(1.2), np.log(2)])
    # A new user of length 1: 2.2 / (1.2 * (0.25 + 0.75 / 1.5) + 1) = 2.2 / 1.9.
    assert np.allclose(weigh.weigh(sp.csr_matrix(np.array([[0, 1]], dtype=np.float32))).toarray(), [[0, 2.2 / 1.9 * np.log(2)]])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(1e-3, 1e3), st.integers(1, 10))
def test_scores_are_inner_products_of_any_length_and_the_same_however_asked(seed, length, cut):
    rng = np.random.default_rng(seed)
    users = torch.from_numpy(rng.normal(size=(5, 6)) * length)
    items = rng.normal(size=(11, 6)).astype(np.float32) * length
    scorer = FactorScorer(users, ItemFactors(items))
    whole = torch.cat([scorer.chunk(0, cut), scorer.chunk(cut, 11)], 1)
    assert np.allclose(whole.numpy(), users.numpy() @ items.astype(np.float64).T, atol=1e-5 * length**2)
    rows, places = torch.arange(5).repeat_interleave(11), torch.arange(11).repeat(5)
    assert torch.equal(scorer.pairs(rows, places), whole.flatten())


def test_a_bpr_user_without_train_interactions_gets_the_items_of_largest_bias():
    train = sp.csr_matrix(np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1]] * 2 + [[0, 0, 0, 0]], dtype=np.float32))
    model = Bpr(train, BprSetting(4, 0.1, 0.01, 50), seed=0)
    assert np.unique(model.model.item_factors[:, -1]).size == 4
    batch = batch_of([[0]] * 7)
    scores = model(batch).chunk(0, 4)[6].numpy()
    assert np.allclose(scores, model.model.item_factors[:, -1], atol=1e-6)


def test_both_beat_popularity_on_planted_tastes_and_repeat_themselves(world):
    catalogue = Catalogue.read(world)
    users = tuning_users(world, 1000, 64)
    popularity = validation_recall(lambda batch: StaticScorer(catalogue.counts.float(), len(batch)), users, catalogue, 10)
    for tuner, config in ((tuned.tune_als, build(AlsConfig, QUICK_ALS)), (tuned.tune_bpr, build(BprConfig, QUICK_BPR))):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model, trials = tuner(world, users, catalogue, config, 3)
        assert len(trials) == 3
        assert trials[0].recall == max(trial.recall for trial in trials)
        assert validation_recall(model, users, catalogue, config.tune_by) == trials[0].recall
        assert validation_recall(model, users, catalogue, 10) > popularity + 0.1
        again, _ = tuner(world, users, catalogue, config, 3)
        assert torch.equal(again(users[0]).chunk(0, 48), model(users[0]).chunk(0, 48))


def test_als_reads_the_history_of_the_split_and_bpr_that_of_training(world):
    train = train_matrix(world, ALS, 10**6).users_items
    als, bpr = Als(train, AlsSetting("plain", 10.0, 8, 1.0, 5), 0), Bpr(train, BprSetting(8, 0.05, 0.01, 20), 0)
    short, long = batch_of([[0, 4], [1]]), batch_of([[0, 4, 8], [1, 5]])
    assert not torch.allclose(als(short).chunk(0, 48), als(long).chunk(0, 48))
    assert torch.equal(bpr(short).chunk(0, 48), bpr(long).chunk(0, 48))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40))
def test_settings_lie_in_the_space_cover_it_evenly_and_repeat_with_the_seed(seed, trials):
    drawn = tuned.als_settings(AlsConfig(trials=trials), seed)
    assert drawn == tuned.als_settings(AlsConfig(trials=trials), seed)
    assert len(set(drawn)) == trials
    # One value in every part of a logarithmic range.
    assert sorted(int(np.log(setting.alpha / 0.3) / np.log(100) * trials) for setting in drawn) == list(range(trials))
    assert all(5 <= setting.iterations <= 30 and 0.1 <= setting.regularization <= 100 for setting in drawn)
    assert {setting.factors for setting in drawn} <= {32, 64, 128, 256}
    for setting in tuned.bpr_settings(BprConfig(trials=trials), seed):
        assert 20 <= setting.iterations <= 300
        assert 0.005 <= setting.learning_rate <= 0.2


@pytest.mark.parametrize("max_entries", [30_000_000, 1])
def test_item_knn_tries_as_many_settings_as_asked_none_twice(world, max_entries):
    config = build(KnnConfig, {"trials": 7, "max_entries": max_entries})
    catalogue, users = Catalogue.read(world), tuning_users(world, 1000, 64)
    matrix = train_matrix(world, ITEM_KNN, config.max_interactions)
    trials, similarities = tune(matrix, users, catalogue, config, seed=1)
    tried = {trial.choice for trial in trials}
    assert len(trials) == len(tried) == 7
    possible = [choice for choice in knn_settings(config, 1) if max_entries > 1 or choice.k is not None]
    assert tried == set(possible[:7])
    assert tried != {trial.choice for trial in tune(matrix, users, catalogue, config, seed=2)[0]}
    assert similarities.shape == (48, 48)
    assert len(knn_settings(config, 0)) == 3 * (5 * 2 + 1) * 5


def test_item_knn_says_when_nothing_can_be_tried(world):
    config = build(KnnConfig, {"neighbours": ["all"], "max_entries": 1})
    catalogue, users = Catalogue.read(world), tuning_users(world, 1000, 64)
    with pytest.raises(ConfigError, match=r"references.knn.neighbours = \['all'\]: .*max_entries"):
        tune(train_matrix(world, ITEM_KNN, 10**6), users, catalogue, config)


def test_the_stage_writes_rows_of_als_and_bpr_and_states_the_winners(tmp_path, world):
    bundle, log = run(tmp_path, world, als=True, bpr=True, als_search=QUICK_ALS, bpr_search=QUICK_BPR, knn={"trials": 4})
    methods = {"popularity", "itemknn", "als", "bpr"}
    for table in ("metrics", "per_user"):
        rows = bundle.table(table).arrow().to_pylist()
        assert {(row["method"], row["split"]) for row in rows} == {(name, split) for name in methods for split in ("validation", "test")}
    per_user = bundle.table("per_user").arrow().to_pylist()
    assert len(per_user) == 4 * 240
    for name in ("als", "bpr"):
        trials = bundle.table(f"tuning_{name}").arrow().to_pylist()
        assert len(trials) == bundle.figures[f"{name}.trials"] == 3
        assert log.logged[name] == bundle.facts[name]
        assert f"{trials[0]['factors']} factors" in bundle.facts[name]
    assert len(bundle.table("tuning").arrow()) == bundle.figures["itemknn.trials"] == 4
    assert bundle.facts["als_users_from"] == "history before the split"
    assert bundle.facts["bpr_users_from"] == "train"


def test_without_the_package_the_error_names_the_extra_before_anything_runs(tmp_path, world, monkeypatch):
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    message = (
        "references.bpr = true needs the package implicit, which is not installed here. "
        'Cure: pip install "esans[baselines]", or set references.bpr=false.'
    )
    with pytest.raises(ConfigError) as planned:
        References.outside_inputs(build(ReferencesConfig, {"bpr": True}))
    with pytest.raises(ConfigError) as ran:
        run(tmp_path, world, bpr=True)
    assert str(planned.value) == str(ran.value) == message
    assert References.outside_inputs(ReferencesConfig()) == {}


def test_settings_without_finite_vectors_lose_and_when_all_do_the_error_says_so(world, monkeypatch):
    from implicit.recommender_base import ModelFitError

    def broken(*arguments):
        raise ModelFitError("NaN encountered in factors")

    monkeypatch.setattr(tuned, "Als", broken)
    catalogue, users = Catalogue.read(world), tuning_users(world, 1000, 64)
    with pytest.raises(DataError) as error:
        tuned.tune_als(world, users, catalogue, build(AlsConfig, QUICK_ALS), 0)
    assert str(error.value) == (
        "ALS: none of the 3 settings gave finite vectors.\nNarrow the ranges of references.als_search, or set references.als=false."
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"factors": []}, "factors = []: give at least one"),
        ({"alpha": [10, 1]}, "alpha = [10.0, 1.0]: give the lower end first"),
    ],
)
def test_impossible_spaces_are_refused(values, message):
    with pytest.raises(ConfigError, match="als_search") as error:
        build(ReferencesConfig, {"als_search": values}, "references")
    assert message in str(error.value)
