"""What machines are told of a run: one JSON line a stage, and metrics for Prometheus. People read esans/progress.py."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from esans import metrics_file
from esans.config import Runtime, config
from esans.metrics_file import Sample
from esans.progress import say
from esans.redaction import redact, redact_values
from esans.roots import Place
from esans.uri import canonical, join, write_text


@config
class LoggingConfig:
    """Keys under `logging`: what machines are told. Nothing here changes what a stage writes."""

    lines: Annotated[Literal["file", "stderr", "both", "none"], Runtime] = "file"
    """Where the JSON line of each stage goes: to `logs/<run id>.jsonl` in the work directory, to stderr, to both, or nowhere."""
    metrics_file: Annotated[str | None, Runtime, Place] = None
    """File of metrics for Prometheus' textfile collector, such as /var/lib/node_exporter/textfile/esans.prom; null writes none. Where
    allowed_roots are set, its folder is one of them."""


@dataclass
class Seen:
    """What is known of a running stage or pipeline; filled while it runs."""

    event: str
    run_id: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    """Of its metrics: stage, and method from train on."""
    about: dict[str, Any] = field(default_factory=dict)
    """Further fields of its line."""
    rows: dict[str, int] = field(default_factory=dict)
    status: str = "finished"


@contextmanager
def observed(config: LoggingConfig, work_dir: str, seen: Seen) -> Iterator[Seen]:
    """Write the line and the metrics of what runs in the block when it ends, however it ends.

    Args:
        config: where to.
        work_dir: for the file of lines.
        seen: filled by the caller.
    """
    began = time.time()
    error: BaseException | None = None
    try:
        yield seen
    except BaseException as raised:
        error = raised
        seen.status = "killed" if isinstance(raised, KeyboardInterrupt) else "failed"
        raise
    finally:
        ended = time.time()
        _tell(config, work_dir, _line(seen, ended, ended - began, error))
        _measure(config, seen, ended, ended - began)


def _line(seen: Seen, ended: float, seconds: float, error: BaseException | None) -> dict[str, Any]:
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ended)) + f".{int(ended % 1 * 1000):03d}Z"
    line = {"time": moment, "event": seen.event, "status": seen.status, "run_id": seen.run_id, **seen.labels, **seen.about}
    line |= {"seconds": round(seconds, 3), "rows": seen.rows, "host": socket.gethostname(), "pid": os.getpid()}
    if error is not None:
        line["error"] = {"type": type(error).__name__, "message": redact(str(error))}
    return dict(redact_values(line))


_writing = threading.Lock()
# Lines by file: a store of objects has no append, so a file is written anew with each of its few lines.
_lines: dict[str, list[str]] = {}


def _tell(config: LoggingConfig, work_dir: str, line: Mapping[str, Any]) -> None:
    text = json.dumps(line, default=str)
    if config.lines in ("stderr", "both"):
        print(text, file=sys.stderr, flush=True)
    if config.lines in ("file", "both"):
        with _writing:
            name = line.get("pipeline_run_id") or line["run_id"] or f"{socket.gethostname()}-{os.getpid()}"
            uri = join(canonical(work_dir), "logs", f"{name}.jsonl")
            _lines.setdefault(uri, []).append(text)
            try:
                write_text(uri, "\n".join(_lines[uri]) + "\n")
            # A full disk must not hide why a stage ended, nor end one that is done.
            except OSError as error:
                say(f"  log: {uri} cannot be written ({error})")


def _measure(config: LoggingConfig, seen: Seen, ended: float, seconds: float) -> None:
    if config.metrics_file is None:
        return
    name, done = f"esans_{seen.event}", seen.status in ("finished", "up_to_date")
    samples = [Sample(f"{name}_success", float(done), seen.labels)]
    if seen.status != "up_to_date":
        samples.append(Sample(f"{name}_seconds", round(seconds, 3), seen.labels))
    if done:
        samples.append(Sample(f"{name}_last_success_timestamp_seconds", round(ended, 3), seen.labels))
        samples += [Sample(f"{name}_rows", float(rows), {**seen.labels, "table": table}) for table, rows in seen.rows.items()]
    report(config, samples)


def report(config: LoggingConfig, samples: list[Sample]) -> None:
    """Put further samples into the file of metrics, where the configuration names one. One that cannot be written is said, not raised."""
    if config.metrics_file is None:
        return
    try:
        metrics_file.update(config.metrics_file, samples)
    except OSError as error:
        say(f"  metrics: {config.metrics_file} cannot be written ({error})")
