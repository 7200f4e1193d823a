"""The flow: fingerprints decide what runs, and only what depends on a change runs again."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pytest

from esans import flow
from esans.bundle import Bundle, BundleWriter
from esans.config import PositiveInt, Runtime, build, config, section
from esans.errors import BundleError, DataError
from esans.flow import METHOD_STAGES, STAGES, Plan, run_stage, stage_class
from esans.observe import LoggingConfig
from esans.settings import PipelineConfig, Settings, Source
from esans.spark import SparkConfig
from esans.stage import Inputs, Stage
from esans.tracking import TrackingConfig


@config
class PartConfig:
    """Keys of one toy stage."""

    size: PositiveInt = 2
    """Rows."""
    chunk: Annotated[PositiveInt, Runtime] = 10
    """Rows at a time."""
    previous: str | None = None
    """Earlier bundle."""
    fail: Annotated[bool, Runtime] = False
    """Stop half way."""
    source: Annotated[str | None, Runtime] = None
    """A file outside."""


@config
class Toy:
    """A configuration of three stages: second and third both read the first; fourth reads second."""

    work_dir: Annotated[str, Runtime] = "work"
    """Folder."""
    seed: Annotated[int, Runtime] = 0
    """Seed."""
    method: Annotated[str | None, Runtime] = None
    """Method."""
    spark: SparkConfig = section(SparkConfig)
    """Spark."""
    tracking: TrackingConfig = section(TrackingConfig)
    """MLflow."""
    logging: LoggingConfig = section(LoggingConfig)
    """Logging."""
    pipeline: PipelineConfig = section(PipelineConfig)
    """Pipeline."""
    first: PartConfig = section(PartConfig)
    """First."""
    second: PartConfig = section(PartConfig)
    """Second."""
    third: PartConfig = section(PartConfig)
    """Third."""
    fourth: PartConfig = section(PartConfig)
    """Fourth."""


class Part(Stage):
    """Writes as many rows as it is told, beside those of its inputs."""

    code_version = 1

    def run(self, inputs: Inputs, out: BundleWriter) -> None:
        out.write_arrow("rows", pa.table({"x": list(range(self.config.size))}))
        if self.config.fail:
            raise DataError("rows: stopped half way")
        out.report({"upstream": sum(bundle.table("rows").rows for bundle in inputs.values())})
        out.state({"size": self.config.size})

    @classmethod
    def outside_inputs(cls, config: Any) -> dict[str, Any]:
        return {"bytes": os.path.getsize(config.source)} if config.source else {}


class First(Part):
    """First."""

    name = "first"


class Second(Part):
    """Second."""

    name, inputs = "second", ("first",)


class Third(Part):
    """Third."""

    name, inputs = "third", ("first",)


class Fourth(Part):
    """Fourth."""

    name, inputs = "fourth", ("second",)


NAMES = ("first", "second", "third", "fourth")


@pytest.fixture(autouse=True)
def toy_flow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "real_flow" not in request.keywords:
        monkeypatch.setattr(flow, "STAGES", {name: f"{__name__}:{name.capitalize()}" for name in NAMES})


def toy(work_dir: Path | str = "work", **values: Any) -> Any:
    return build(Toy, {"work_dir": str(work_dir), "tracking": {"system_metrics": False}, **values})


def fingerprints(settings: Any) -> dict[str, str]:
    return {name: Plan(settings).stage(name).fingerprint for name in NAMES}


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"first": {"size": 3}}, {"first", "second", "third", "fourth"}),
        ({"second": {"size": 3}}, {"second", "fourth"}),
        ({"third": {"size": 3}}, {"third"}),
        ({"fourth": {"size": 3}}, {"fourth"}),
        ({"third": {"previous": "file:///earlier"}}, {"third"}),
        ({"seed": 1}, {"first", "second", "third", "fourth"}),
        ({"first": {"chunk": 3}}, set()),
        ({"spark": {"shuffle_partitions": 3}}, set()),
        ({"tracking": {"experiment": "other"}}, set()),
    ],
)
def test_a_change_reaches_the_stage_that_reads_it_and_those_that_follow(values: dict[str, Any], expected: set[str]) -> None:
    assert changed(fingerprints(toy()), fingerprints(toy(**values))) == expected


def test_a_stage_whose_code_changed_runs_again_with_those_that_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprints(toy())
    monkeypatch.setattr(Second, "code_version", 2)
    assert changed(before, fingerprints(toy())) == {"second", "fourth"}


def test_a_file_that_a_stage_reads_is_part_of_its_fingerprint(tmp_path: Path) -> None:
    source = tmp_path / "raw"
    source.write_text("1")
    settings = toy(second={"source": str(source)})
    before = fingerprints(settings)
    source.write_text("12")
    assert changed(before, fingerprints(settings)) == {"second", "fourth"}


def test_where_the_bundles_lie_does_not_change_what_they_are() -> None:
    assert fingerprints(toy("here")) == fingerprints(toy("memory://there"))


def test_a_finished_stage_is_not_run_again_and_a_failed_one_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], new_store: Callable[[Path], str]
) -> None:
    new_store(tmp_path)
    settings = toy(tmp_path, second={"fail": True})
    first = run_stage(Plan(settings), "first")
    assert run_stage(Plan(settings), "first").manifest == first.manifest
    assert f"first: up to date  {first.uri}" in capsys.readouterr().out

    with pytest.raises(DataError):
        run_stage(Plan(settings), "second")
    assert Bundle.find(Plan(settings).stage("second").uri) is None

    second = run_stage(Plan(toy(tmp_path)), "second")
    assert second.figures == {"upstream": 2.0}
    assert second.facts["size"] == 2
    assert second.manifest["inputs"] == {"first": first.uri}

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("esans").experiment_id])
    assert sorted((run.info.run_name, run.info.status) for run in runs) == [
        ("first", "FINISHED"),
        ("second", "FAILED"),
        ("second", "FINISHED"),
    ]
    done = client.get_run(second.facts["mlflow_run_id"])
    assert done.data.params["second.size"] == "2"
    assert done.data.params["input.first"] == first.uri
    assert done.data.tags["fingerprint"] == second.manifest["fingerprint"]
    assert done.data.metrics["upstream"] == 2.0


def test_each_work_folder_keeps_its_own_runs_in_one_process_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_store: Callable[[Path], str]
) -> None:
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for folder in ("one", "other"):
        new_store(tmp_path / folder)
        run_stage(Plan(toy(tmp_path / folder)), "first")
    for folder in ("one", "other"):
        client = MlflowClient(f"sqlite:///{tmp_path}/{folder}/mlflow.db")
        assert len(client.search_runs([client.get_experiment_by_name("esans").experiment_id])) == 1
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/one/mlflow.db")
    run_stage(Plan(toy(tmp_path / "third")), "first")
    client = MlflowClient(f"sqlite:///{tmp_path}/one/mlflow.db")
    assert len(client.search_runs([client.get_experiment_by_name("esans").experiment_id])) == 2


def test_a_stage_without_its_input_says_what_to_run_first(tmp_path: Path) -> None:
    plan = Plan(toy(tmp_path))
    with pytest.raises(BundleError) as refused:
        run_stage(plan, "second")
    uri = plan.stage("first").uri
    assert str(refused.value) == (
        f"second needs the first bundle, and {uri} is not finished: run `esans first` with the same config first, or `esans pipeline`."
    )


def test_an_earlier_bundle_that_is_not_there_points_at_the_config(tmp_path: Path) -> None:
    plan = Plan(toy(tmp_path, first={"previous": str(tmp_path / "gone")}))
    with pytest.raises(BundleError) as refused:
        run_stage(plan, "first")
    assert (
        str(refused.value) == f"first needs the previous bundle, and file://{tmp_path}/gone is not finished: check the URI in the config."
    )


# The real flow.


def quickstart(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of `make quickstart`, whose paths start at the clone."""
    monkeypatch.chdir(Path(__file__).resolve().parents[1])
    return Source(("conf/quickstart.yaml",), ()).load()


def _followers(name: str) -> set[str]:
    direct = {other for other in STAGES if name in stage_class(other).inputs}
    return direct.union(*(_followers(other) for other in direct)) if direct else set()


@pytest.mark.real_flow
def test_the_real_stages_are_in_an_order_that_their_inputs_allow() -> None:
    order = list(STAGES)
    for name in order:
        assert all(order.index(source) < order.index(name) for source in stage_class(name).inputs)
    assert set(METHOD_STAGES) <= {"train"} | _followers("train")


@pytest.mark.real_flow
@pytest.mark.parametrize("name", STAGES)
def test_raising_a_real_stages_code_version_reruns_it_and_its_followers_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = quickstart(monkeypatch)
    before = {other: Plan(settings).stage(other).fingerprint for other in STAGES}
    monkeypatch.setattr(stage_class(name), "code_version", 999)
    after = {other: Plan(settings).stage(other).fingerprint for other in STAGES}
    assert changed(before, after) == {name} | _followers(name)


@pytest.mark.real_flow
def test_a_real_stages_fingerprint_covers_no_other_stages_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(quickstart(monkeypatch))
    for name in STAGES:
        fields = {field.name for field in dataclasses.fields(getattr(plan.settings, name))}
        assert set(plan.stage(name).config) <= fields
