"""Machines are told of every stage in a line, however it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from esans.errors import DataError
from esans.metrics_file import Sample, read
from esans.observe import LoggingConfig, Seen, observed, report


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for file in sorted(folder.glob("logs/*.jsonl")) for line in file.read_text().splitlines()]


def watch(folder: Path, seen: Seen, error: BaseException | None = None, **keys: object) -> None:
    """What a stage does: fill what is seen, and end."""
    with observed(LoggingConfig(**keys), str(folder), seen):  # type: ignore[arg-type]
        seen.run_id = "run-1"
        seen.rows = {"items": 3}
        if error is not None:
            raise error


def test_a_stage_that_ends_well_has_a_line_with_its_ids_seconds_and_rows(tmp_path: Path) -> None:
    watch(tmp_path, Seen("stage", labels={"stage": "prepare"}, about={"pipeline_run_id": "p", "bundle": "file:///b"}))
    (line,) = lines(tmp_path)
    assert {name: line[name] for name in ("event", "status", "stage", "run_id", "pipeline_run_id", "bundle", "rows")} == {
        "event": "stage",
        "status": "finished",
        "stage": "prepare",
        "run_id": "run-1",
        "pipeline_run_id": "p",
        "bundle": "file:///b",
        "rows": {"items": 3},
    }
    assert (tmp_path / "logs" / "p.jsonl").exists()


@pytest.mark.parametrize(
    ("error", "status"),
    [(DataError("no rows in http://me:canary@host/x"), "failed"), (KeyboardInterrupt(), "killed"), (SystemExit(1), "failed")],
)
def test_a_stage_that_does_not_end_well_has_a_line_with_the_reason_and_no_secret(tmp_path: Path, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)):
        watch(tmp_path, Seen("stage", labels={"stage": "prepare"}), error)
    (line,) = lines(tmp_path)
    assert line["status"] == status
    assert line["error"] == {"type": type(error).__name__, "message": str(error).replace("canary", "***")}


def test_stages_of_one_pipeline_stand_in_one_file_in_order(tmp_path: Path) -> None:
    for stage in ("prepare", "features"):
        watch(tmp_path, Seen("stage", labels={"stage": stage}, about={"pipeline_run_id": "one"}))
    watch(tmp_path, Seen("stage", labels={"stage": "prepare"}, about={"pipeline_run_id": "two"}))
    found = [json.loads(line) for line in (tmp_path / "logs" / "one.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in found] == ["prepare", "features"]


@pytest.mark.parametrize(("where", "on_stderr", "in_file"), [("file", 0, 1), ("stderr", 1, 0), ("both", 1, 1), ("none", 0, 0)])
def test_lines_go_where_the_configuration_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str, on_stderr: int, in_file: int
) -> None:
    watch(tmp_path, Seen("stage"), lines=where)
    assert (len(capsys.readouterr().err.splitlines()), len(lines(tmp_path))) == (on_stderr, in_file)


def test_a_place_that_cannot_be_written_hides_no_error_and_ends_no_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    keys = {"metrics_file": str(tmp_path / "file" / "esans.prom")}
    watch(tmp_path / "file", Seen("stage"), **keys)
    with pytest.raises(DataError):
        watch(tmp_path / "file", Seen("stage"), DataError("why"), **keys)
    assert capsys.readouterr().out.count("cannot be written") == 4


def test_metrics_say_how_the_latest_run_ended_and_when_one_last_ended_well(tmp_path: Path) -> None:
    path = tmp_path / "esans.prom"
    keys = {"lines": "none", "metrics_file": str(path)}

    def values() -> dict[str, float]:
        return {sample.name: sample.value for sample in read(path) if sample.labels["stage"] == "prepare"}

    watch(tmp_path, Seen("stage", labels={"stage": "prepare"}), **keys)
    good = values()
    assert good["esans_stage_success"] == 1
    assert good["esans_stage_rows"] == 3
    with pytest.raises(DataError):
        watch(tmp_path, Seen("stage", labels={"stage": "prepare"}), DataError("why"), **keys)
    bad = values()
    assert bad["esans_stage_success"] == 0
    assert bad["esans_stage_last_success_timestamp_seconds"] == good["esans_stage_last_success_timestamp_seconds"]
    assert bad["esans_stage_seconds"] >= 0


def test_others_put_their_metrics_into_the_same_file(tmp_path: Path) -> None:
    config = LoggingConfig(metrics_file=str(tmp_path / "esans.prom"))
    report(config, [Sample("esans_champion_version", 7, {"model": "retrieval"})])
    report(LoggingConfig(), [Sample("esans_champion_version", 8)])
    assert [(one.value, one.labels) for one in read(tmp_path / "esans.prom")] == [(7, {"model": "retrieval"})]
