"""The whole chain as one process against a real MLflow server, then again: nothing, or only what depends on a change."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks.browser import Tab, browser
from benchmarks.concepts import Step, draw
from benchmarks.screenshots import compare, open_clusters, open_report
from esans.bundle import Bundle
from esans.flow import METHOD_STAGES, STAGES, Plan
from esans.settings import Settings, Source
from tests.integration.processes import run_job, succeeded
from tools.browser import find_browser

if TYPE_CHECKING:
    from mlflow import MlflowClient

METHODS = ("uniform", "esans")
SHARED = [stage for stage in STAGES if stage not in METHOD_STAGES]


class Chain:
    """One work folder, one server, and the settings that the pipeline runs under."""

    def __init__(self, config: Path, work_dir: Path, server: str) -> None:
        self.config, self.server = config, server
        self.arguments = [f"--work_dir={work_dir}", f"--tracking.uri={server}", f"--pipeline.methods=[{', '.join(METHODS)}]"]
        done = self.run()
        self.first, self.said = succeeded(done), done.stderr

    def run(self, *more: str) -> subprocess.CompletedProcess[str]:
        """jobs/pipeline.py with these settings and some more."""
        return run_job("pipeline", "--config", str(self.config), *self.arguments, *more, timeout=800)

    def settings(self, method: str, *more: str) -> Settings:
        """What the pipeline runs a method with."""
        return Source((str(self.config),), (*self.arguments, *more)).load(method)

    def bundle(self, stage: str, method: str = METHODS[0]) -> Bundle:
        """A finished bundle."""
        return Bundle.open(Plan(self.settings(method)).stage(stage).uri)


@pytest.fixture(scope="module")
def chain(retail_slice: Path, mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """The chain, run once for two methods."""
    return Chain(retail_slice, tmp_path_factory.mktemp("chain"), mlflow_server)


@pytest.fixture(scope="module")
def client(mlflow_server: str) -> MlflowClient:
    """The server's API."""
    from mlflow import MlflowClient

    return MlflowClient(mlflow_server)


pytestmark = pytest.mark.timeout(900)


def test_the_chain_ends_with_a_table_of_the_methods_and_a_report(chain: Chain) -> None:
    for name in (*METHODS, "popularity", "item-kNN"):
        assert re.search(rf"^\W*{name}\b", chain.first, re.MULTILINE | re.IGNORECASE), f"{name} is not in the table:\n{chain.first[-3000:]}"
    report = Path(re.findall(r"report:\s+(\S+\.html)", chain.first)[0])
    assert "<html" in report.read_text()[:500].lower()
    assert f"mlflow ui --backend-store-uri {chain.server}" in chain.first
    for noise in ("sc.setLogLevel", "Downloading artifacts", "INFO mlflow"):
        assert noise not in chain.said


def test_every_stage_and_method_is_a_finished_run_under_one_pipeline_run(chain: Chain, client: MlflowClient) -> None:
    experiment = client.get_experiment_by_name("esans")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if run.data.tags.get("kind") == "pipeline"]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert {run.info.status for run in runs} == {"FINISHED"}
    expected = [*SHARED, *(f"{stage}-{method}" for method in METHODS for stage in METHOD_STAGES)]
    assert sorted(run.info.run_name for run in children) == sorted(expected)


def test_a_run_knows_its_configuration_its_data_and_its_bundle(chain: Chain, client: MlflowClient) -> None:
    bundle = chain.bundle("train", "esans")
    run = client.get_run(bundle.facts["mlflow_run_id"])
    assert run.data.params["train.batch_size"] == str(chain.settings("esans").train.batch_size)
    assert run.data.params["input.shards"] == chain.bundle("shards").uri
    assert run.data.tags["fingerprint"] == bundle.manifest["fingerprint"]
    assert run.data.tags["code_version"] == str(bundle.manifest["code_version"])
    assert run.data.metrics["seconds"] > 0
    assert len(client.get_metric_history(run.info.run_id, "loss")) >= 1


def test_figures_of_a_stage_are_metrics_of_its_run(chain: Chain, client: MlflowClient) -> None:
    bundle = chain.bundle("evaluate", "esans")
    metrics = client.get_run(bundle.facts["mlflow_run_id"]).data.metrics
    assert metrics["recall_at_50"] == pytest.approx(bundle.figures["recall@50"])
    assert 0 < metrics["recall_at_50"] < 1


@pytest.fixture
def tab() -> Iterator[Tab]:
    """An empty page of a headless browser."""
    if find_browser() is None:
        pytest.skip("no Chromium is here: `make develop` gets one, by npm, Playwright or apt, and says why it could not")
    with browser() as tab:
        yield tab


def test_mlflow_compares_the_methods_by_name_with_the_values_of_their_bundles_and_no_script_error(chain: Chain, tab: Tab) -> None:
    bundles = {method: chain.bundle("evaluate", method) for method in METHODS}
    shown = compare(tab, chain.server, [bundle.facts["mlflow_run_id"] for bundle in bundles.values()])
    assert set(shown) == {f"evaluate-{method}" for method in METHODS}
    for method, bundle in bundles.items():
        for name in ("recall@10", "recall@50", "recall@200", "ndcg@50", "mrr"):
            # The page shows three decimals.
            assert shown[f"evaluate-{method}"][name.replace("@", "_at_")] == pytest.approx(bundle.figures[name], abs=0.00051), (
                method,
                name,
            )
    assert tab.errors == []


def test_the_report_and_the_clusters_show_methods_values_and_pictures_in_a_browser_and_no_script_error(chain: Chain, tab: Tab) -> None:
    report = Path(re.findall(r"report:\s+(\S+\.html)", chain.first)[0])
    (head, *rows), areas = open_report(tab, report)
    assert [row[0] for row in rows] == ["popularity", "item-kNN", *METHODS]
    for row in rows:
        if row[0] in METHODS:
            figures = chain.bundle("evaluate", row[0]).figures
            for name, value in zip(head[1:6], row[1:6], strict=True):
                assert value.split(" ")[0] == f"{figures[name.lower()]:.4f}", (row[0], name)
    assert len(areas) == report.read_text().count("<figure") >= 6
    assert min(areas) > 10_000
    with chain.bundle("cluster").local("clusters.html") as page:
        shown = open_clusters(tab, page)
    titles = chain.bundle("prepare").table("items").arrow(["title"]).column(0).to_pylist()
    assert sum(title in shown for title in titles) > 5
    assert "Easy" in shown
    assert "Hard" in shown
    assert tab.errors == []


def test_a_page_that_fails_is_seen_to_fail(tab: Tab, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<table><tr><td>x</table><img src='gone.png'><script>console.error('said'); nothing()</script>")
    open_report(tab, page)
    for part in ("gone.png", "said", "nothing is not defined"):
        assert any(part in error for error in tab.errors), tab.errors


def test_the_pictures_of_the_concepts_are_drawn_from_the_bundles(chain: Chain, tmp_path: Path) -> None:
    step = Step.read(chain.config, chain.arguments)
    drawn = draw(step, tmp_path)
    assert [path.stem for path in drawn] == ["flow", "clusters", "draws", "interpolation", "loss"]
    assert step.titles[int(step.batch.target[step.row])].title()[:52] in html.unescape((tmp_path / "draws.svg").read_text())


_RETRIEVE = """
import json, sys
import mlflow
import pandas as pd
server, model, histories = sys.argv[1:]
mlflow.set_tracking_uri(server)
loaded = mlflow.pyfunc.load_model(model)
names = loaded.metadata.signature.inputs.input_names()
found = loaded.predict(pd.DataFrame({"history": json.loads(histories)}))
print(json.dumps({"names": names, "ids": [list(ids) for ids in found["item_ids"]], "unknown": found["unknown_ids"].tolist()}))
"""


def test_the_registered_model_is_loaded_by_alias_in_a_new_process_and_retrieves_for_raw_item_ids(chain: Chain, tmp_path: Path) -> None:
    known = chain.bundle("prepare").table("items").arrow(["item_id"]).column(0).to_pylist()
    registry = chain.settings("esans").export.registry
    histories = [known[:3], [known[5], "no such item"]]
    command = [sys.executable, "-c", _RETRIEVE, chain.server, f"models:/{registry.name}@{registry.alias}", json.dumps(histories)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    answer = json.loads(succeeded(done).splitlines()[-1])
    assert "history" in answer["names"]
    assert answer["unknown"] == [0, 1]
    for history, ids in zip(histories, answer["ids"], strict=True):
        assert len(ids) == len(set(ids)) == 50
        assert set(ids) <= set(known)
        assert not set(ids) & set(history)


def test_a_second_run_finds_everything_up_to_date(chain: Chain, client: MlflowClient) -> None:
    experiment = client.get_experiment_by_name("esans")
    before = len(client.search_runs([experiment.experiment_id]))
    started = time.monotonic()
    again = succeeded(chain.run())
    assert time.monotonic() - started < 30
    assert again.count("up to date") >= len(SHARED) + len(METHODS) * len(METHOD_STAGES)
    assert "done in" in again
    assert not re.findall(r"^\S*\s*(\w+)( \(\w+\))?: done in", again, re.MULTILINE)
    assert len(client.search_runs([experiment.experiment_id])) == before


def test_a_changed_setting_runs_the_stages_that_depend_on_it_and_no_other(chain: Chain) -> None:
    text = succeeded(chain.run("--train.optimizer.learning_rate=0.003", "--train.epochs=1"))
    for stage in SHARED:
        assert re.search(rf"\b{stage}: up to date", text), stage
    for stage in METHOD_STAGES:
        for method in METHODS:
            assert re.search(rf"\b{stage} \({method}\): done in", text), (stage, method)
