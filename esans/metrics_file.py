"""Metrics in Prometheus' text format, in one file that is replaced as a whole: for the textfile collector of node_exporter.

    esans_stage_seconds{stage="prepare"} 12.3

A job runs and ends, so nobody can ask it; the file stays, and what other jobs wrote into it stays too. The caller says what is new.
"""

from __future__ import annotations

import fcntl
import math
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

# Name -> what it is. All are gauges: each run says how things are now.
KNOWN: Mapping[str, str] = {
    "esans_stage_seconds": "Seconds that the latest run of a stage took, whatever its end.",
    "esans_stage_rows": "Rows of a table that the latest finished run of a stage wrote.",
    "esans_stage_success": "Whether the latest run of a stage finished: 1 or 0.",
    "esans_stage_last_success_timestamp_seconds": "When a stage last finished, or was found up to date.",
    "esans_pipeline_seconds": "Seconds that the latest pipeline took, whatever its end.",
    "esans_pipeline_success": "Whether the latest pipeline finished: 1 or 0.",
    "esans_pipeline_last_success_timestamp_seconds": "When a pipeline last finished.",
    "esans_retrain_seconds": "Seconds that the latest retraining took, whatever its end.",
    "esans_retrain_success": "Whether the latest retraining ended without an error: 1 or 0.",
    "esans_retrain_last_success_timestamp_seconds": "When a retraining last ended without an error.",
    "esans_retrain_exit_code": "What the latest retraining ended with: 0, 1 failed, 3 data refused, 4 challenger refused.",
    "esans_retrain_outcome": "1 at what the latest retraining came to, 0 at the rest.",
    "esans_retrain_part_seconds": "Seconds of a part of the latest retraining that came to it.",
    "esans_retrain_checks": "How many gates, or checks of the data, passed, were refused, or were only shown.",
    "esans_champion_version": "Version of a registered model that serves.",
    "esans_champion_as_of_timestamp_seconds": "Start of the last day of data that the model which serves has seen (UTC).",
}
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_LINE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\})? (\S+)')
_PAIR = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
_HELP = re.compile(r"# HELP (\S+) (.*)")


@dataclass(frozen=True)
class Sample:
    """One value of a metric under its labels."""

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)
    help: str = ""
    """What the metric is, for names that are not in `KNOWN`."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or not all(_LABEL.fullmatch(label) for label in self.labels):
            raise ValueError(f"{self.name}{dict(self.labels)}: no name of a metric and its labels")

    @property
    def key(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """What tells it from others."""
        return self.name, tuple(sorted(self.labels.items()))


def update(path: str | Path, samples: Iterable[Sample]) -> None:
    """Put samples into the file, in place of those of the same name and labels; others stay. Readers see the old file or the new.

    Args:
        path: on a local disk, ending in `.prom` as the collector wants it. Its folder is made.
        samples: non-finite values are left out.

    Raises:
        OSError: it cannot be written.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Jobs beside each other must not lose what the other one wrote. Not the file itself: it is replaced.
    with (target.parent / f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        merged = {sample.key: sample for sample in read(target)} | {one.key: one for one in samples if math.isfinite(one.value)}
        handle, part = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(render(merged.values()))
        # The collector runs as another user.
        Path(part).chmod(0o644)
        Path(part).replace(target)


def read(path: Path) -> list[Sample]:
    """The samples of a file that `update` wrote; none where there is no such file. Lines that it cannot read are left out."""
    if not path.is_file():
        return []
    found, helps = [], {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if about := _HELP.fullmatch(line):
            helps[about[1]] = about[2]
        elif match := _LINE.fullmatch(line):
            labels = {name: _unescape(value) for name, value in _PAIR.findall(match[2] or "")}
            found.append(Sample(match[1], float(match[3]), labels, helps.get(match[1], "")))
    return found


def render(samples: Iterable[Sample]) -> str:
    """Samples as text, those of one name together, as the format asks."""
    by_name: dict[str, list[Sample]] = {}
    for sample in samples:
        by_name.setdefault(sample.name, []).append(sample)
    lines = []
    for name, group in sorted(by_name.items()):
        about = KNOWN.get(name) or next((sample.help for sample in group if sample.help), name)
        lines += [f"# HELP {name} {about}", f"# TYPE {name} gauge"]
        for sample in sorted(group, key=lambda one: one.key):
            labels = ",".join(f'{label}="{_escape(value)}"' for label, value in sorted(sample.labels.items()))
            lines.append(f"{name}{{{labels}}} {sample.value!r}" if labels else f"{name} {sample.value!r}")
    return "\n".join(lines) + "\n" if lines else ""


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], text)
