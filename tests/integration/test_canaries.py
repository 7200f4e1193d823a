"""No secret is in anything that the chain writes, says or sends; and what machines are told of it is there."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from benchmarks.canaries import run, search
from esans.flow import STAGES
from esans.metrics_file import read
from tests.jvm import quick_java

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> tuple[Path, dict[str, str]]:
    """The folder with all that the chain wrote, printed and sent, and the canaries that it was given."""
    folder = tmp_path_factory.mktemp("canaries")
    canaries, _ = run(folder, empty_store, quick_java())
    return folder / "searched", canaries


def test_no_canary_is_in_any_byte_that_the_chain_wrote_printed_or_sent(ran: tuple[Path, dict[str, str]]) -> None:
    searched, canaries = ran
    # What is searched is there: bundles, the server's database, event logs, outputs.
    assert list(searched.glob("work/export/*/manifest.json"))
    assert (searched / "mlflow" / "mlflow.db").stat().st_size > 100_000
    assert list(searched.glob("work/spark-events/*.zstd"))
    assert "***" in (searched / "wrong-type.stderr").read_text()
    assert search(searched, canaries) == []


def test_sparks_event_log_is_where_the_tag_of_the_run_says_and_holds_its_jobs(ran: tuple[Path, dict[str, str]]) -> None:
    from mlflow import MlflowClient

    searched, _ = ran
    client = MlflowClient(f"sqlite:///{searched}/mlflow/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("esans").experiment_id])
    tags = {run.info.run_name: run.data.tags.get("spark_event_log") for run in runs if run.info.status == "FINISHED"}
    assert tags["prepare"] is not None
    assert tags["prepare"] == tags["features"]
    with pa.CompressedInputStream(tags["prepare"].removeprefix("file://"), "zstd") as stream:
        events = [json.loads(line) for line in stream.read().decode().splitlines()]
    kinds = {event["Event"] for event in events}
    assert {"SparkListenerApplicationStart", "SparkListenerJobEnd", "SparkListenerTaskEnd", "SparkListenerApplicationEnd"} <= kinds


def test_every_stage_of_the_chain_has_its_line_and_its_metrics(ran: tuple[Path, dict[str, str]]) -> None:
    searched, _ = ran
    lines = [json.loads(line) for line in (searched / "pipeline.stderr").read_text().splitlines() if line.startswith("{")]
    assert [line.get("stage") for line in lines if line["event"] == "stage"] == list(STAGES)
    (pipeline,) = [line for line in lines if line["event"] == "pipeline"]
    assert {line["pipeline_run_id"] for line in lines if line["event"] == "stage"} == {pipeline["run_id"]}
    kept = (searched / "work" / "logs" / f"{pipeline['run_id']}.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in kept] == lines
    found = {(one.name, one.labels.get("stage")) for one in read(searched / "metrics" / "esans.prom")}
    assert {("esans_stage_last_success_timestamp_seconds", stage) for stage in STAGES} <= found
    # The runs of prepare that failed came later.
    ends = {one.labels["stage"]: one.value for one in read(searched / "metrics" / "esans.prom") if one.name == "esans_stage_success"}
    assert (ends["prepare"], ends["features"]) == (0, 1)
