"""The evaluate stage on a small bundle, with a stand-in where the model is loaded."""

from __future__ import annotations

import pytest

from esans.bundle import BundleWriter
from esans.config import build, to_dict
from esans.errors import ConfigError
from esans.evaluate.config import EvaluateConfig
from esans.evaluate.stage import Evaluate
from esans.references.config import ReferencesConfig
from esans.references.stage import References
from tests.retrieval.small import RecordingRun, Stub, context, random_users, write_prepare


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    prepare = write_prepare(tmp_path, random_users(5, 30, 48), 48)
    references = BundleWriter(str(tmp_path / "references" / "x"), "references", "x")
    config = build(ReferencesConfig, {"knn": {"neighbours": [5], "similarities": ["cosine"]}})
    References(config, context(tmp_path)).run({"prepare": prepare}, references)
    train = BundleWriter(str(tmp_path / "train" / "x"), "train", "x")
    with train.local("model") as folder:
        folder.mkdir()
    monkeypatch.setattr("esans.evaluate.worker.load", lambda folder, device="cpu": Stub(48))
    done = {"code_version": 1, "config": {}, "inputs": {}}
    return {"prepare": prepare, "train": train.finish(**done), "references": references.finish(**done)}


def test_tables_figures_and_plots_of_a_model(tmp_path, inputs):
    log = RecordingRun()
    out = BundleWriter(str(tmp_path / "evaluate" / "x"), "evaluate", "x")
    Evaluate(build(EvaluateConfig, {"slices": ["available"]}), context(tmp_path, log, method="esans")).run(inputs, out)
    bundle = out.finish(code_version=1, config={}, inputs={})
    rows = bundle.table("metrics").arrow().to_pylist()
    assert {(row["method"], row["split"]) for row in rows} == {("esans", "validation"), ("esans", "test")}
    assert bundle.table("per_user").rows == 60
    overall = {row["metric"]: row["value"] for row in rows if row["slice"] == "all" and row["split"] == "test"}
    assert overall["recall@50"] == bundle.figures["recall@50"]
    assert set(log.figures) == {"recall_by_popularity.png", "recall_by_history.png", "recall_by_available.png"}
    assert {row["label"] for row in rows if row["slice"] == "available"} == {"true"}
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows if row["metric"] == "recall@10" and row["users"] > 1)
    assert {"coverage@50", "novelty@50", "popularity_lift@50"} <= set(overall)
    assert bundle.table("metrics").schema == inputs["references"].table("metrics").schema
    assert bundle.table("per_user").schema == inputs["references"].table("per_user").schema


def test_a_gpu_that_is_not_there_is_named(tmp_path, inputs):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    out = BundleWriter(str(tmp_path / "evaluate" / "x"), "evaluate", "x")
    with pytest.raises(ConfigError) as error:
        Evaluate(build(EvaluateConfig, {"launch": {"device": "cuda"}}), context(tmp_path)).run(inputs, out)
    assert str(error.value) == "evaluate.launch.device = 'cuda': this machine has no GPU that torch can use. Use auto or cpu."


def test_processes_do_not_change_what_an_evaluation_is():
    covered = [to_dict(build(EvaluateConfig, {"launch": {"processes": n}}), results_only=True) for n in (1, 3)]
    assert covered[0] == covered[1]
