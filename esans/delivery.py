"""From the outbox to MLflow: in order, by a thread, with growing pauses while the server is away.

What was sent and not yet noted as arrived is sent again, which changes nothing: a metric keeps the time it was logged at, and
MLflow's databases know the same metric, step, time and value as one; parameters, tags, files and the end overwrite themselves.
"""

from __future__ import annotations

import os
import posixpath
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from esans.outbox import Box, Entry, kind_of
from esans.progress import say

# Limits of MLflow's batch endpoint.
_METRICS_PER_CALL, _OTHERS_PER_CALL = 1000, 100
# Seconds between deliveries, and the first and the longest pause after one that failed.
_INTERVAL, _FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 0.5, 30.0
# Answers that would be the same next time. All else (no answer, no rights, a full disk over there) may pass.
_FINAL = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")


def connect(tracking_uri: str) -> Any:
    """An MlflowClient whose calls give up after seconds of refused connections, not after MLflow's minutes."""
    from mlflow import MlflowClient

    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    return MlflowClient(tracking_uri)


def deliver(box: Box, client: Any, stop: threading.Event | None = None) -> int:
    """Send what waits in a box, in order, until `stop`; how many entries that was.

    Raises:
        Exception: whatever the client raises when the server does not answer; what was sent until then is noted.
    """
    sent = 0
    for entries, end in box.waiting():
        if stop is not None and stop.is_set():
            break
        _send_or_refuse(box, client, entries)
        box.note(end)
        sent += len(entries)
    return sent


def deliver_left(root: Path, client_for: Callable[[str], Any] = connect) -> list[str]:
    """Deliver the boxes below `root` that nobody holds, and say what was; a line for each that could not be delivered."""
    failed = []
    for folder in sorted(root.glob("*.*")):
        box = Box.take(folder)
        if box is None:
            continue
        try:
            sent = deliver(box, client_for(box.tracking_uri)) if box.count() else 0
            if sent:
                say(f"  MLflow: delivered {sent:,} entries of run {box.run_id} to {box.tracking_uri}")
        except Exception as error:
            failed.append(f"{folder}: {box.count():,} entries of run {box.run_id} for {box.tracking_uri} wait: {_first_line(error)}")
        finally:
            box.release()
    return failed


class Outbox:
    """A box with the thread that delivers it. `append` never waits for the network and never raises.

    Args:
        box: claimed by this process.
        client_for: makes the client for a tracking URI; called in the thread.
    """

    def __init__(self, box: Box, client_for: Callable[[str], Any] = connect) -> None:
        self.box, self._client_for = box, client_for
        self._closing, self._left = threading.Event(), threading.Event()
        self._trouble = ""
        self._lost = 0
        # A daemon: a call that never comes back must not keep the process.
        self._thread = threading.Thread(target=self._work, name="mlflow-delivery", daemon=True)
        self._thread.start()

    def append(self, entry: Entry) -> None:
        """Write an entry to the journal. Where that fails, the disk is full: the entry is counted as lost, and said to be."""
        try:
            self.box.append(entry)
        except OSError as error:
            self._lost += 1
            if self._lost == 1:
                say(f"  MLflow: {self.box.folder} cannot be written ({error}); training goes on, what is logged is lost")

    def artifact(self, path: str, write: Callable[[Path], Any]) -> None:
        """Let `write` make a file, which becomes artifact `path` of the run. Raises what `write` raises."""
        folder, name = posixpath.split(path)
        file = self.box.artifact(name)
        write(file)
        self.append({"artifact": str(file.relative_to(self.box.folder)), "path": folder})

    def close(self, seconds: float) -> int:
        """Deliver the rest for at most so many seconds. Returns how many entries stay on disk, and says where."""
        self._closing.set()
        self._thread.join(seconds)
        self._left.set()
        count = self.box.count()
        if count:
            say(
                f"  MLflow at {self.box.tracking_uri} could not be reached for {seconds:g} s ({self._trouble or 'no answer yet'}): "
                f"{count:,} entries of run {self.box.run_id} wait in {self.box.folder}. "
                f"Deliver them with: esans deliver {self.box.folder.parent.parent}"
            )
        self.box.release()
        return count

    def _work(self) -> None:
        client, pause = None, _FIRST_PAUSE
        while not self._left.is_set():
            # Before looking: what was appended ahead of `close` is then seen.
            closing = self._closing.is_set()
            try:
                client = client or self._client_for(self.box.tracking_uri)
                sent = deliver(self.box, client, self._left)
            except Exception as error:
                if not self._left.is_set():
                    self._tell(_first_line(error))
                (self._left if closing else self._closing).wait(_FIRST_PAUSE if closing else pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            if sent and self._trouble:
                say(f"  MLflow answers again: delivered {sent:,} entries that had waited")
                self._trouble = ""
            if closing:
                return
            pause = _FIRST_PAUSE
            self._closing.wait(_INTERVAL)

    def _tell(self, reason: str) -> None:
        if not self._trouble:
            say(f"  MLflow at {self.box.tracking_uri} does not answer ({reason}); work goes on, what is logged waits in {self.box.folder}")
        self._trouble = reason


def _send_or_refuse(box: Box, client: Any, entries: Sequence[Entry]) -> None:
    try:
        _send(box, client, entries)
    except Exception as error:
        if getattr(error, "error_code", "") not in _FINAL:
            raise
        if len(entries) > 1:
            for entry in entries:
                _send_or_refuse(box, client, [entry])
        else:
            kept = box.refuse(entries[0], str(error))
            say(f"  MLflow refused an entry of run {box.run_id} for good, kept in {kept}: {_first_line(error)}")


def _send(box: Box, client: Any, entries: Sequence[Entry]) -> None:
    """Send entries of one kind."""
    from mlflow.entities import Metric, Param, RunTag

    kind = kind_of(entries[0])
    if kind == "metrics":
        metrics = [Metric(name, value, entry["time"], entry["step"]) for entry in entries for name, value in entry[kind].items()]
        for start in range(0, len(metrics), _METRICS_PER_CALL):
            client.log_batch(box.run_id, metrics=metrics[start : start + _METRICS_PER_CALL])
    elif kind in ("params", "tags"):
        # Of a tag set twice the later value stays; a parameter keeps its value, and MLflow refuses another.
        pairs = [(name, text) for entry in entries for name, text in entry[kind].items()]
        made = [Param(*pair) for pair in pairs] if kind == "params" else [RunTag(*pair) for pair in dict(pairs).items()]
        for start in range(0, len(made), _OTHERS_PER_CALL):
            client.log_batch(box.run_id, **{kind: made[start : start + _OTHERS_PER_CALL]})
    elif kind == "artifact":
        for entry in entries:
            client.log_artifact(box.run_id, str(box.folder / entry[kind]), entry["path"] or None)
    elif kind == "end":
        for entry in entries:
            client.set_terminated(box.run_id, entry[kind], entry["time"])


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
