"""The references stage on a small bundle."""

from __future__ import annotations

import pytest

from esans.bundle import BundleWriter
from esans.config import build
from esans.errors import DataError
from esans.references.config import ReferencesConfig
from esans.references.stage import References
from tests.retrieval.small import RecordingRun, context, random_users, write_prepare


def run(tmp_path, prepare, name="a", **config):
    run_log = RecordingRun()
    out = BundleWriter(str(tmp_path / "references" / name), "references", name)
    References(build(ReferencesConfig, config), context(tmp_path, run_log)).run({"prepare": prepare}, out)
    return out.finish(code_version=1, config={}, inputs={}), run_log


def test_both_references_stand_in_the_tables_and_the_winner_is_stated(tmp_path):
    bundle, log = run(tmp_path, write_prepare(tmp_path, random_users(2, 40, 48), 48))
    metrics = bundle.table("metrics").arrow().to_pylist()
    assert {row["method"] for row in metrics} == {"popularity", "itemknn"}
    assert {row["slice"] for row in metrics} == {"all", "popularity", "history", "cold"}
    per_user = bundle.table("per_user").arrow().to_pylist()
    assert len(per_user) == 2 * 80
    assert {"recall_at_50", "ndcg_at_50", "mrr"} <= set(per_user[0])
    tuning = bundle.table("tuning").arrow().to_pylist()
    assert tuning[0]["validation_recall"] == max(row["validation_recall"] for row in tuning)
    assert bundle.facts["item_knn"].startswith(tuning[0]["similarity"])
    assert log.logged["item_knn"] == bundle.facts["item_knn"]
    assert bundle.figures["itemknn.recall@10"] > bundle.figures["popularity.recall@10"]


def test_tuning_looks_at_validation_only(tmp_path):
    users = random_users(3, 40, 48)
    other = {user: {**parts, "test": [(item + 1) % 48 for item in parts["test"]]} for user, parts in users.items()}
    first, _ = run(tmp_path, write_prepare(tmp_path / "a", users, 48), "a")
    second, _ = run(tmp_path, write_prepare(tmp_path / "b", other, 48), "b")
    assert first.table("tuning").arrow().equals(second.table("tuning").arrow())
    assert first.figures["itemknn.recall@10"] != second.figures["itemknn.recall@10"]


def test_above_its_bound_item_knn_is_left_out_with_a_message(tmp_path, capsys):
    bundle, _ = run(tmp_path, write_prepare(tmp_path, random_users(4, 10, 24), 24), knn={"max_items": 23})
    assert {row["method"] for row in bundle.table("metrics").arrow().to_pylist()} == {"popularity"}
    assert "item-kNN left out: 24 items are more than references.knn.max_items = 23" in capsys.readouterr().out


def test_above_the_bound_of_interactions_users_are_sampled_and_said(tmp_path, capsys):
    bundle, _ = run(tmp_path, write_prepare(tmp_path, random_users(4, 60, 24), 24), knn={"max_interactions": 200})
    assert 0 < bundle.figures["item_knn_users_share"] < 1
    assert "references.knn.max_interactions" in capsys.readouterr().out


def test_without_validation_users_the_error_says_what_to_do(tmp_path):
    prepare = write_prepare(tmp_path, {0: {"train": [0, 1], "test": [2]}}, 3)
    with pytest.raises(DataError) as error:
        run(tmp_path, prepare)
    assert str(error.value) == (
        "histories: no user has validation targets, so item-kNN cannot be tuned.\nChange prepare.split, or set references.item_knn=false."
    )
