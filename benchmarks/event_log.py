"""Reads Spark's event log: where the time went, what was shuffled, what was spilled."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# Name here -> where a task's metrics keep it.
_FIELDS = {
    "run_seconds": ("Executor Run Time",),
    "cpu_seconds": ("Executor CPU Time",),
    "gc_seconds": ("JVM GC Time",),
    "spilled_memory_bytes": ("Memory Bytes Spilled",),
    "spilled_bytes": ("Disk Bytes Spilled",),
    "shuffle_bytes": ("Shuffle Write Metrics", "Shuffle Bytes Written"),
    "shuffle_rows": ("Shuffle Write Metrics", "Shuffle Records Written"),
    "input_bytes": ("Input Metrics", "Bytes Read"),
    "output_bytes": ("Output Metrics", "Bytes Written"),
    "result_bytes": ("Result Size",),
}
_SCALE = {"run_seconds": 1e-3, "cpu_seconds": 1e-9, "gc_seconds": 1e-3}


def totals(folder: Path) -> dict[str, float]:
    """Sums over all tasks of every log in a folder, and `tasks`, their number."""
    found: dict[str, float] = dict.fromkeys([*_FIELDS, "tasks"], 0.0)
    for metrics, _ in _tasks(folder):
        found["tasks"] += 1
        for name in _FIELDS:
            found[name] += _value(metrics, name)
    return found


def by_stage(folder: Path) -> list[dict[str, Any]]:
    """The same sums for each Spark stage, with its name, the longest first: what to look at when something is slow."""
    found: dict[int, dict[str, Any]] = defaultdict(lambda: dict.fromkeys([*_FIELDS, "tasks", "longest"], 0.0) | {"name": ""})
    for event in _events(folder):
        if event["Event"] == "SparkListenerStageCompleted":
            info = event["Stage Info"]
            found[info["Stage ID"]]["name"] = info["Stage Name"]
            seconds = (info.get("Completion Time", 0) - info.get("Submission Time", 0)) / 1e3
            found[info["Stage ID"]]["wall"] = seconds
            found[info["Stage ID"]]["scopes"] = _scopes(info)
    for metrics, stage in _tasks(folder):
        row = found[stage]
        row["tasks"] += 1
        row["longest"] = max(row["longest"], _value(metrics, "run_seconds"))
        for name in _FIELDS:
            row[name] += _value(metrics, name)
    return sorted(({"stage": stage, **row} for stage, row in found.items()), key=lambda row: -row["run_seconds"])


def _scopes(info: dict[str, Any]) -> str:
    names = [json.loads(rdd["Scope"])["name"] for rdd in info["RDD Info"] if rdd.get("Scope")]
    return " < ".join(dict.fromkeys(names))


def _tasks(folder: Path) -> Iterable[tuple[dict[str, Any], int]]:
    for event in _events(folder):
        if event["Event"] == "SparkListenerTaskEnd" and event.get("Task Metrics"):
            yield event["Task Metrics"], event["Stage ID"]


def _events(folder: Path) -> Iterable[dict[str, Any]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith((".", "appstatus")):
            with path.open() as stream:
                for line in stream:
                    yield json.loads(line)


def _value(metrics: dict[str, Any], name: str) -> float:
    value: Any = metrics
    for key in _FIELDS[name]:
        value = value.get(key, 0)
    return float(value) * _SCALE.get(name, 1.0)
