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
from mlflow import MlflowClient

from esans.bundle import BundleWriter
from esans.config import build
from esans.errors import ConfigError
from esans.export.aliases import promote
from esans.export.config import ExportConfig
from esans.export.registry import requirements
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

# Only what the model's requirements bring may be imported: any other package installed here is as if it were not.
LOADER = """
import importlib.metadata as metadata, json, re, sys

def closure(names):
    found, waiting = set(), list(names)
    while waiting:
        name = re.sub("[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        found.add(name)
        try:
            wanted = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        waiting += [re.match("[A-Za-z0-9._-]+", text)[0] for text in wanted if "extra ==" not in text]
    return found

allowed = closure(json.loads(sys.argv[4]))
blocked = {
    module
    for module, packages in metadata.packages_distributions().items()
    if module != "esans" and not any(re.sub("[-_.]+", "-", package).lower() in allowed for package in packages)
}
assert {"pyspark", "petastorm", "torch_geometric"} <= blocked and not {"torch", "faiss", "mlflow"} & blocked, blocked

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
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
    assert [row["kind"] for row in bundle.table("ann").arrow().to_pylist()] == ["exact", "flat"]


def test_a_process_with_only_mlflow_torch_faiss_and_this_package_loads_the_champion_and_retrieves_for_raw_ids(exported):
    folder, inputs, _, uri = exported
    promote(MlflowClient(uri), "small", "2")
    # Without esans itself, whose own requirements are those of training.
    brought = [requirement.partition("==")[0] for requirement in requirements() if not requirement.startswith("esans")]
    command = [sys.executable, "-c", LOADER, uri, "models:/small@champion", json.dumps(HISTORIES), json.dumps(brought)]
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


TOWERS = """
import json, sys
import torch
assert "esans" not in sys.modules
folder, history, items = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
user, item = (torch.export.load(f"{folder}/{name}_tower.pt2").module() for name in ("user", "item"))
print("RESULT" + json.dumps({"users": user(torch.tensor(history)).numpy().tolist(), "items": item(torch.tensor(items)).numpy().tolist()}))
assert not [name for name in sys.modules if name.startswith("esans")]
"""


def test_both_towers_run_in_a_process_without_this_package_and_give_the_exported_vectors(exported, tmp_path):
    _, inputs, (bundle, _), _ = exported
    histories = [row for row in inputs["prepare"].table("histories").arrow().to_pylist() if row["split"] == "serve"]
    history = [([-1] * 6 + row["history"])[-6:] for row in histories]
    with bundle.local("towers") as folder:
        # -I: neither the folder nor PYTHONPATH lead to the package.
        command = [sys.executable, "-I", "-c", TOWERS, str(folder), json.dumps(history), json.dumps(list(range(ITEMS)))]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=180, cwd=tmp_path)
    assert "RESULT" in done.stdout, done.stderr
    result = json.loads(done.stdout.split("RESULT")[1])
    kept = {row["user_idx"]: row["vector"] for row in bundle.table("user_vectors").arrow().to_pylist()}
    assert np.allclose(result["users"], [kept[row["user_idx"]] for row in histories], atol=1e-5)
    assert np.allclose(result["items"], bundle.table("item_vectors").arrow().to_pydict()["vector"], atol=1e-5)


def test_the_manifest_says_what_every_file_is_and_each_is_there(exported):
    _, _, (bundle, _), _ = exported
    files = bundle.facts["files"]
    assert set(files) == {
        "towers/item_tower.pt2",
        "towers/user_tower.pt2",
        "item_vectors",
        "user_vectors",
        "retriever/index.faiss",
        "retriever/items.parquet",
    }
    for name in files:
        with bundle.local(name) as path:
            assert path.exists()
    assert files["towers/user_tower.pt2"]["inputs"]["history"].startswith("(batch, 6) int64: item_idx of the user's last 6 positives")


def test_the_newest_version_takes_the_alias_and_names_its_bundle(exported):
    _, _, (first, second), uri = exported
    client = MlflowClient(uri)
    newest = client.get_model_version_by_alias("small", "challenger")
    assert (first.facts["registered_version"], second.facts["registered_version"]) == ("1", "2")
    assert str(newest.version) == "2"
    assert newest.tags["method"] == "esans"
    assert newest.tags["bundle"].endswith("/export/b")


def test_nothing_in_the_registered_model_is_a_pickle_of_code(exported):
    _, _, (_, second), uri = exported
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
    config = build(ExportConfig, {"registry": {"register": False}, "user_vectors": False, "towers": False})
    Export(config, context(tmp_path)).run(inputs, out)
    bundle = out.finish(code_version=1, config={}, inputs={})
    assert "registered_version" not in bundle.facts
    assert not bundle.has("user_vectors")
    assert bundle.figures["index_recall@50"] == 1.0


def test_a_registry_name_that_mlflow_refuses_is_a_config_error():
    with pytest.raises(ConfigError) as error:
        build(ExportConfig, {"registry": {"name": "a/b"}}, "export")
    assert str(error.value) == "export.registry.name = 'a/b': must be String should match pattern '^[^/:]+$'."
