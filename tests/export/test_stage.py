"""Export round trip: a real model, a real MLflow store, and another process that loads the registered version."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
import torch

from esans.bundle import BundleWriter
from esans.config import build
from esans.errors import ConfigError
from esans.export.config import ExportConfig
from esans.export.stage import Export
from esans.model import TwoTower, load, save
from esans.model.config import ModelConfig
from esans.retrieval.topk import exact_topk
from esans.spark import SparkConfig
from esans.stage import StageContext
from esans.tracking import TrackingConfig, start_run
from tests.retrieval.small import context, random_users, write_prepare

ITEMS, UNAVAILABLE = 48, (3, 11)
HISTORIES = [["item-4", "item-9", "item-30"], ["item-7", "no such item", "item-7"], [], ["nothing", "known"]]

LOADER = """
import json, sys
import mlflow, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
histories = json.loads(sys.argv[3])
plain = model.predict(pd.DataFrame({"history": histories}))
short = model.predict(pd.DataFrame({"history": histories, "k": [5, 6, 7, 8]}))
signature = model.metadata.signature
print("RESULT" + json.dumps({"plain": plain.to_dict("list"), "short": short.to_dict("list"), "inputs": signature.inputs.input_names()}))
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory, new_store):
    folder: Path = tmp_path_factory.mktemp("export")
    new_store(folder)
    prepare = write_prepare(folder, random_users(8, 20, ITEMS), ITEMS, UNAVAILABLE)
    torch.manual_seed(0)
    model = TwoTower(ModelConfig(dim=8, hidden=8), ITEMS, 20, 6, 0, [])
    train = BundleWriter(str(folder / "train" / "x"), "train", "x")
    with train.local("model") as target:
        save(model, target)
    inputs = {"prepare": prepare, "train": train.finish(code_version=1, config={}, inputs={})}
    tracking = TrackingConfig(system_metrics=False)
    config = build(ExportConfig, {"user_batch": 7, "registry": {"name": "small"}})
    bundles = []
    for attempt in ("a", "b"):
        with start_run(tracking, str(folder), "export") as run:
            out = BundleWriter(str(folder / "export" / attempt), "export", attempt)
            Export(config, StageContext(0, str(folder), SparkConfig(), tracking, run, "esans")).run(inputs, out)
            bundles.append(out.finish(code_version=1, config={}, inputs={}))
    return folder, inputs, bundles, run.tracking_uri


def test_vectors_carry_the_outside_ids_and_are_those_of_the_model(exported):
    _, inputs, (bundle, _), _ = exported
    with inputs["train"].local("model") as folder:
        model = load(folder)
    items = bundle.table("item_vectors").arrow().to_pydict()
    assert items["item_id"] == [f"item-{i}" for i in range(ITEMS)]
    assert np.allclose(items["vector"], model.encode_items(torch.arange(ITEMS)).detach().numpy(), atol=1e-6)
    users = bundle.table("user_vectors").arrow()
    assert users.num_rows == 20
    assert sorted(users.column("user_id").to_pylist()) == sorted(f"user-{i}" for i in range(20))
    assert pc.all(
        pc.equal(users.column("user_id"), pc.binary_join_element_wise("user", pc.cast(users.column("user_idx"), "string"), "-"))
    ).as_py()
    assert bundle.facts["index"] == "flat"
    assert bundle.facts["indexed_items"] == ITEMS - len(UNAVAILABLE)
    assert bundle.figures["index_recall@50"] == 1.0


def test_another_process_loads_the_registered_model_and_retrieves_for_raw_ids(exported):
    folder, inputs, _, uri = exported
    command = [sys.executable, "-c", LOADER, uri, "models:/small@challenger", json.dumps(HISTORIES)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=180, cwd=folder)
    assert "RESULT" in done.stdout, done.stderr
    result = json.loads(done.stdout.split("RESULT")[1])
    assert result["inputs"] == ["history", "k"]
    plain, short = result["plain"], result["short"]
    assert [len(ids) for ids in short["item_ids"]] == [5, 6, 7, 8]
    assert short["unknown_ids"] == [0, 1, 0, 2]
    assert short["fallback"] == [False, False, True, True]
    for history, ids, scores in zip(HISTORIES, plain["item_ids"], plain["scores"], strict=True):
        assert not set(ids) & (set(history) | {f"item-{i}" for i in UNAVAILABLE})
        assert scores == sorted(scores, reverse=True)
        assert len(ids) == ITEMS - len(UNAVAILABLE) - len({h for h in history if h.startswith("item-")})
    with inputs["train"].local("model") as model_folder:
        model = load(model_folder)
    padded = torch.tensor([[-1, -1, -1, 4, 9, 30]])
    with torch.inference_mode():
        _, best = exact_topk(model.encode_users(padded), model.encode_items(torch.arange(ITEMS)), ITEMS)
    expected = [f"item-{i}" for i in best[0].tolist() if i not in (4, 9, 30, *UNAVAILABLE)]
    assert short["item_ids"][0] == expected[:5]


def test_the_fallback_is_popularity(exported):
    _, inputs, (bundle, _), _ = exported
    from esans.export.retriever import Retriever

    with bundle.local("retriever") as folder:
        (found,) = Retriever(folder).retrieve([[]], [6])
    counts = inputs["prepare"].table("popularity").dense("item_idx", "count", ITEMS, dtype="int64")
    counts[list(UNAVAILABLE)] = 0
    assert found.fallback
    assert [counts[int(item.removeprefix("item-"))] for item in found.item_ids] == sorted(counts, reverse=True)[:6]


def test_the_newest_version_takes_the_alias_and_names_its_bundle(exported):
    from mlflow import MlflowClient

    _, _, (first, second), uri = exported
    client = MlflowClient(uri)
    newest = client.get_model_version_by_alias("small", "challenger")
    assert (first.facts["registered_version"], second.facts["registered_version"]) == ("1", "2")
    assert str(newest.version) == "2"
    assert newest.tags["method"] == "esans"
    assert newest.tags["bundle"].endswith("/export/b")


def test_nothing_in_the_registered_model_is_a_pickle_of_code(exported):
    _, _, (_, second), uri = exported
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    version = MlflowClient(uri).get_model_version("small", second.facts["registered_version"])
    folder = Path(download_artifacts(artifact_uri=version.source, tracking_uri=uri))
    assert not [path for path in folder.rglob("*") if path.suffix in (".pkl", ".pickle")]
    requirements = (folder / "requirements.txt").read_text()
    for package in ("esans==", "torch==2.13.0", "faiss-"):
        assert package in requirements


def test_without_registration_the_bundle_is_written_all_the_same(exported, tmp_path):
    _, inputs, _, _ = exported
    out = BundleWriter(str(tmp_path / "x"), "export", "x")
    config = build(ExportConfig, {"registry": {"register": False}, "user_vectors": False})
    Export(config, context(tmp_path)).run(inputs, out)
    bundle = out.finish(code_version=1, config={}, inputs={})
    assert "registered_version" not in bundle.facts
    assert not bundle.has("user_vectors")
    assert bundle.figures["index_recall@50"] == 1.0


def test_a_registry_name_that_mlflow_refuses_is_a_config_error():
    with pytest.raises(ConfigError) as error:
        build(ExportConfig, {"registry": {"name": "a/b"}}, "export")
    assert str(error.value) == "export.registry.name = 'a/b': must be String should match pattern '^[^/:]+$'."
