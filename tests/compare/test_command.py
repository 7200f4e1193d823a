"""`esans compare` as it is typed, over a real MLflow store."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from esans.commands import compare
from esans.compare.runs import CompareError, Finder, collect
from esans.errors import ConfigError
from esans.progress import console
from tests.compare.bundles import evaluated, logged, prepare_bundle

USERS = 60


class Store:
    """Three evaluated methods with a run each, and two pipeline runs above them."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.folder, self.client = folder, MlflowClient(uri)
        prepare = prepare_bundle(folder, "p", [f"user-{i}" for i in range(USERS)], {})
        rng = np.random.default_rng(0)
        base = rng.random(USERS)
        shifts = {"uniform": 0.0, "in_batch": 0.3, "a_method_whose_name_is_very_long_indeed": 0.01}
        self.bundles = {
            name: evaluated(folder, name, prepare, dict(enumerate(base + shift + rng.normal(0, 0.05, USERS))), {"shift": shift})
            for name, shift in shifts.items()
        }
        parent = logged(self.client, prepare, "nightly", kind="pipeline")
        self.ids = {name: logged(self.client, bundle, f"evaluate-{name}", parent) for name, bundle in self.bundles.items()}
        tags = {f"evaluation.{name}": bundle.uri for name, bundle in self.bundles.items()}
        logged(self.client, prepare, "everything-up-to-date", kind="pipeline", methods=",".join(self.bundles), **tags)
        logged(self.client, prepare, "only-prepare")

    def names(self, *wanted: str, search: str | None = None, baseline: str | None = None) -> list[str]:
        """Names of the entries that these words stand for."""
        return [entry.name for entry in collect(Finder(self.client, "esans"), wanted, search, baseline)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, new_store: Callable[[Path], str]) -> Store:
    folder = tmp_path_factory.mktemp("compare")
    return Store(folder, new_store(folder))


LONG = "a_method_whose_name_is_very_long_indeed"


def test_a_run_is_found_by_id_name_bundle_its_pipeline_its_model_and_a_filter(store: Store) -> None:
    uri = store.bundles[LONG].uri
    assert store.names(store.ids["in_batch"], "evaluate-uniform", uri) == ["in_batch", "uniform", LONG]
    assert store.names("nightly") == store.names("everything-up-to-date") == list(store.bundles)
    assert store.names(search="tags.stage = 'evaluate'") == list(store.bundles)
    assert store.names("nightly", baseline="in_batch") == ["in_batch", "uniform", LONG]
    assert store.names("evaluate-uniform", baseline=uri) == [LONG, "uniform"]
    trained = Finder(store.client, "esans")
    bundle = store.bundles["uniform"]
    train = bundle.manifest["inputs"]["train"]
    from esans.bundle import Bundle

    run_id = logged(store.client, Bundle.open(train), "train-uniform")
    assert [entry.bundle.uri for entry in trained.find(run_id)] == [bundle.uri]


def test_what_is_not_there_or_not_evaluated_is_said(store: Store) -> None:
    for wanted, message in (
        (("nothing", "nightly"), "'nothing' is no run id or run name in experiment 'esans' at sqlite:///"),
        (("only-prepare", "nightly"), "run 'only-prepare' (stage prepare) has no evaluation"),
        (("file:///nowhere", "nightly"), "file:///nowhere: no finished bundle is there"),
        (("evaluate-uniform", store.ids["uniform"]), "only 1 evaluation is left to compare (uniform)"),
    ):
        with pytest.raises(CompareError, match=re.escape(message)):
            store.names(*wanted)
    with pytest.raises(CompareError, match=re.escape("--baseline 'nightly' stands for 3 evaluations")):
        store.names("nightly", baseline="nightly")
    with pytest.raises(CompareError, match="none of them is an evaluation"):
        store.names(search="attributes.run_name = 'only-prepare'")
    with pytest.raises(CompareError, match="MLflow refuses the filter"):
        store.names(search="nonsense here")
    with pytest.raises(CompareError, match="no experiment 'other'"):
        collect(Finder(store.client, "other"), ["x"], None, None)
    prepare_uri = store.bundles["uniform"].manifest["inputs"]["prepare"]
    with pytest.raises(CompareError, match="a prepare bundle without the tables metrics and per_user"):
        store.names(prepare_uri)


def run_command(store: Store, *arguments: str) -> str:
    with console.capture() as captured:
        compare.run([*arguments, f"--work_dir={store.folder}", "--tracking.deliver_seconds=60", "--resamples=200"])
    return captured.get()


def test_the_terminal_keeps_to_80_columns_and_the_page_names_nothing_outside(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_width", 80)
    text = run_command(store, "nightly", "--no-log", f"--out={store.folder}/page.html")
    shown = text[: text.index("page:")]
    assert max(map(len, shown.splitlines())) <= 80
    for expected in ("against uniform", "Holm", "recall@50 by slice", "popularity cold", "train.shift", ".010", ".020"):
        assert expected in shown
    page = (store.folder / "page.html").read_text()
    assert page.count("<svg") == 2 * 2 + 2 + 1
    assert not re.findall(r"""(?:src|href)=(?!"#)|url\((?!#)|https?://""", page.replace(store.folder.as_uri(), ""))
    assert "in_batch" in page
    assert not [run for run in store.client.search_runs(["1"]) if run.info.run_name == "compare"]


def test_a_run_named_compare_keeps_the_page_the_numbers_and_the_table(store: Store, tmp_path: Path) -> None:
    text = run_command(store, "evaluate-in_batch", "--baseline", "evaluate-uniform", "--metrics", "recall@50")
    run_id = re.findall(r"run:\s+(\w+) in experiment esans", text)[0]
    run = store.client.get_run(run_id)
    assert run.info.run_name == "compare"
    assert run.data.tags["baseline"] == "uniform"
    assert {file.path for file in store.client.list_artifacts(run_id)} == {"comparison.html", "comparison.json", "comparison.txt"}
    kept = json.loads(Path(store.client.download_artifacts(run_id, "comparison.json", str(tmp_path))).read_text())
    cell = kept["metrics"]["recall@50"]["in_batch"]
    assert cell["difference_low"] < cell["difference"] < cell["difference_high"]
    assert cell["p_holm"] == cell["p"] < 0.05
    assert kept["differences"] == {"train.shift": {"uniform": "0.0", "in_batch": "0.3"}}
    assert "recall@50" in Path(store.client.download_artifacts(run_id, "comparison.txt", str(tmp_path))).read_text()


def test_a_call_without_runs_or_with_an_unknown_key_is_refused(store: Store) -> None:
    with pytest.raises(ConfigError, match="name two runs or more"):
        compare.run([])
    with pytest.raises(ConfigError, match="trackin: unknown key"):
        compare.run(["a", "b", "--trackin.uri=x"])
