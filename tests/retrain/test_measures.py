"""What monitoring is told of a retraining, by way of the file of metrics."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from esans.metrics_file import KNOWN, Sample, read
from esans.observe import LoggingConfig, report
from esans.retrain.drift import Finding
from esans.retrain.gates import Verdict
from esans.retrain.measures import samples
from esans.retrain.record import Record
from esans.retrain.state import DATA_REFUSED, PUBLISHED

DAY = datetime.date(2026, 11, 20)


def document(outcome: str, **known: Any) -> dict[str, Any]:
    record = Record(DAY, "d1", "served", "esans", "file:///shop/retrain/x", outcome=outcome)
    for name, value in known.items():
        setattr(record, name, value)
    return record.document()


def values(found: list[Sample]) -> dict[tuple[str, ...], float]:
    """(name, labels but the model's) -> value."""
    assert all(one.labels["model"] == "served" for one in found)
    return {(one.name, *(text for label, text in sorted(one.labels.items()) if label != "model")): one.value for one in found}


def test_a_published_day_tells_of_its_parts_its_gates_and_what_serves_since(tmp_path: Path) -> None:
    gates = [Verdict("recall@50", 0.2, "above", "margin", True), Verdict("slice", 0.1, "above", "slice_margin", None)]
    data = [Finding("interactions", "", "rows", 100, "at least 30", "retrain.drift.min_rows_ratio", True)]
    seconds = {"prepare": 3.5, "train": 60.0}
    path = tmp_path / "esans.prom"
    report(
        LoggingConfig(metrics_file=str(path)),
        samples(document(PUBLISHED, champion="8", gates=gates, drift=data, seconds=seconds)),
    )
    found = read(path)
    assert {one.name for one in found} <= set(KNOWN)
    told = values(found)
    assert told["esans_retrain_exit_code",] == 0
    assert (told["esans_retrain_outcome", PUBLISHED], told["esans_retrain_outcome", DATA_REFUSED]) == (1, 0)
    assert (told["esans_retrain_part_seconds", "prepare"], told["esans_retrain_part_seconds", "train"]) == (3.5, 60)
    assert {result: told["esans_retrain_checks", result, "gates"] for result in ("passed", "refused", "shown")} == {
        "passed": 1,
        "refused": 0,
        "shown": 1,
    }
    assert told["esans_retrain_checks", "passed", "data"] == 1
    assert told["esans_champion_version",] == 8
    assert told["esans_champion_as_of_timestamp_seconds",] == datetime.datetime(2026, 11, 20, tzinfo=datetime.UTC).timestamp()


def test_a_refused_day_says_so_and_leaves_what_is_known_of_the_champion(tmp_path: Path) -> None:
    config = LoggingConfig(metrics_file=str(tmp_path / "esans.prom"))
    report(config, samples(document(PUBLISHED, champion="8")))
    report(config, samples(document(DATA_REFUSED, champion="8")))
    told = values(read(tmp_path / "esans.prom"))
    assert told["esans_retrain_exit_code",] == 3
    assert (told["esans_retrain_outcome", PUBLISHED], told["esans_retrain_outcome", DATA_REFUSED]) == (0, 1)
    assert told["esans_champion_version",] == 8
    assert ("esans_champion_as_of_timestamp_seconds",) in told
