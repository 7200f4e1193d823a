"""What is logged arrives once, in order, whatever becomes of the server or of the process that logged it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from esans import delivery
from esans.delivery import Outbox, deliver, deliver_left
from esans.errors import EsansError
from esans.outbox import Box, root_of


class Server:
    """Stands in for MlflowClient: a server that answers, refuses the connection, or never answers."""

    def __init__(self) -> None:
        self.metrics: list[tuple[str, float, int]] = []
        self.tags: dict[str, str] = {}
        self.files: dict[str, str] = {}
        self.ended = ""
        self.away = False
        self.asked, self.answers = threading.Event(), threading.Event()
        self.answers.set()

    def _answer(self) -> None:
        self.asked.set()
        self.answers.wait()
        if self.away:
            raise ConnectionError("refused\nwith much detail")

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        self._answer()
        assert len(metrics) <= 1000
        if any(metric.key == "bad" for metric in metrics):
            raise Refused("no such name")
        self.metrics += [(metric.key, metric.value, metric.step) for metric in metrics]
        self.tags.update({tag.key: tag.value for tag in tags})

    def log_artifact(self, run_id: str, path: str, folder: str | None) -> None:
        self._answer()
        self.files[f"{folder or ''}/{Path(path).name}"] = Path(path).read_text()

    def set_terminated(self, run_id: str, status: str, time: int) -> None:
        self._answer()
        self.ended = status


class Refused(Exception):
    """As MLflow answers to what it will never take."""

    error_code = "INVALID_PARAMETER_VALUE"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_INTERVAL", "_FIRST_PAUSE", "_LONGEST_PAUSE"):
        monkeypatch.setattr(delivery, name, 0.01)


def outbox(root: Path, server: Server) -> Outbox:
    return Outbox(Box.claim(root, "run", "http://server"), lambda uri: server)


def metric(step: int, name: str = "loss") -> dict[str, Any]:
    return {"metrics": {name: float(step)}, "step": step, "time": step}


def losses(steps: range) -> list[tuple[str, float, int]]:
    return [("loss", float(step), step) for step in steps]


def test_all_kinds_of_entries_arrive_in_order_and_leave_nothing_behind(tmp_path: Path) -> None:
    server, root = Server(), root_of(str(tmp_path))
    box = outbox(root, server)
    box.append({"tags": {"stage": "first"}})
    box.append({"tags": {"stage": "second"}})
    for step in range(2500):
        box.append(metric(step))
    box.artifact("plots/note.txt", lambda file: file.write_text("seen"))
    box.append({"end": "FINISHED", "time": 1})
    assert box.close(30) == 0
    assert server.metrics == losses(range(2500))
    assert (server.tags, server.files, server.ended) == ({"stage": "second"}, {"plots/note.txt": "seen"}, "FINISHED")
    assert not root.exists()


def test_while_the_server_is_away_entries_wait_and_then_arrive_once_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = Server()
    box = outbox(tmp_path, server)
    server.away = True
    for step in range(100):
        box.append(metric(step))
    server.asked.clear()
    assert server.asked.wait(30)
    server.away = False
    box.append(metric(100))
    assert box.close(30) == 0
    assert server.metrics == losses(range(101))
    told = capsys.readouterr().out
    assert told.count("MLflow at http://server does not answer (refused); work goes on") == 1
    assert "with much detail" not in told


def test_a_server_that_never_answers_holds_up_neither_the_logging_nor_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = Server()
    server.answers.clear()
    box = outbox(tmp_path / "undelivered", server)
    box.append(metric(0))
    # From here on the thread is inside a call that does not return: were one below to wait for it, this test would never end.
    assert server.asked.wait(30)
    for step in range(1, 500):
        box.append(metric(step))
    assert box.close(0.01) == 500
    told = capsys.readouterr().out.replace("\n", " ")
    assert f"500 entries of run run wait in {tmp_path}/undelivered/run.0. Deliver them with: esans deliver {tmp_path}" in told

    server.away = True
    server.answers.set()
    (failed,) = deliver_left(tmp_path / "undelivered", lambda uri: server)
    assert "500 entries of run run for http://server wait: refused" in failed
    server.away = False
    server.metrics.clear()  # Of the call that did return in the end.
    assert deliver_left(tmp_path / "undelivered", lambda uri: server) == []
    assert server.metrics == losses(range(500))
    assert not (tmp_path / "undelivered").exists()


KILLED = """
import sys
from pathlib import Path
from esans.outbox import Box
box = Box.claim(Path(sys.argv[1]), "run", "http://server")
step = 0
while True:
    box.append({"metrics": {"loss": float(step)}, "step": step, "time": step})
    print(step, flush=True)
    step += 1
"""


def test_kill_9_loses_nothing_that_was_acknowledged_and_a_restart_goes_on_in_the_same_box(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], cwd=Path.cwd(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == 300:
            # Held by a living process: neither taken over nor delivered.
            assert Box.take(tmp_path / "run.0") is None
            os.kill(process.pid, signal.SIGKILL)
            break
    acknowledged = max([300, *(int(line) for line in process.stdout if line.endswith("\n"))])
    process.wait()
    server = Server()
    box = outbox(tmp_path, server)
    assert box.box.folder.name == "run.0"
    box.append(metric(10**6))
    assert box.close(30) == 0
    steps = [step for _, _, step in server.metrics]
    assert steps[:-1] == list(range(len(steps) - 1))
    assert len(steps) - 2 in (acknowledged, acknowledged + 1)
    assert steps[-1] == 10**6


def test_a_torn_last_line_is_dropped_and_what_follows_is_whole(tmp_path: Path) -> None:
    box = Box.claim(tmp_path, "run", "http://server")
    box.append(metric(0))
    os.write(box._file, b'{"metrics": {"lo')
    os.close(box._file)
    server = Server()
    again = Box.claim(tmp_path, "run", "http://server")
    again.append(metric(1))
    assert deliver(again, server) == 2
    assert server.metrics == losses(range(2))


def test_what_was_sent_but_not_noted_is_sent_again_under_the_same_time(
    tmp_path: Path, new_store: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(new_store(tmp_path))
    run_id = client.create_run("0").info.run_id
    box = Box.claim(tmp_path / "undelivered", run_id, "")
    box.append({"metrics": {"loss": 0.5, "recall": float("nan")}, "step": 1, "time": 10})
    box.append({"metrics": {"loss": 0.25}, "step": 2, "time": 10})
    monkeypatch.setattr(box, "note", lambda end: exit())
    with pytest.raises(SystemExit):
        deliver(box, client)
    monkeypatch.undo()
    assert deliver(box, client) == 2
    assert [(found.step, found.value) for found in client.get_metric_history(run_id, "loss")] == [(1, 0.5), (2, 0.25)]
    assert len(client.get_metric_history(run_id, "recall")) == 1


def test_an_entry_that_mlflow_never_takes_is_put_aside_and_the_others_arrive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = Server()
    box = outbox(tmp_path, server)
    server.answers.clear()
    for step, name in enumerate(("loss", "bad", "loss")):
        box.append(metric(step, name))
    server.answers.set()
    assert box.close(30) == 0
    assert [step for _, _, step in server.metrics] == [0, 2]
    kept = json.loads((tmp_path / "run.0" / "refused.jsonl").read_text())
    assert kept == {"reason": "no such name", "entry": metric(1, "bad")}
    assert "MLflow refused an entry of run run for good" in capsys.readouterr().out


def test_two_writers_of_one_run_have_a_box_each(tmp_path: Path) -> None:
    server = Server()
    one, two = outbox(tmp_path, server), outbox(tmp_path, server)
    assert {one.box.folder.name, two.box.folder.name} == {"run.0", "run.1"}
    for box in (one, two):
        box.append(metric(0))
        assert box.close(30) == 0
    assert len(server.metrics) == 2


def test_a_full_disk_stops_no_training(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    box = outbox(tmp_path, Server())

    def full(entry: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(box.box, "append", full)
    box.append(metric(0))
    box.append(metric(1))
    assert capsys.readouterr().out.count("No space left on device") == 1
    assert box.close(30) == 0


def test_without_a_server_a_run_is_refused_at_its_start_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from esans.tracking import TrackingConfig, TrackingError, start_run

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    config = TrackingConfig(uri="http://127.0.0.1:1", system_metrics=False)
    message = r"^MLflow at http://127\.0\.0\.1:1 creates no run: .*\n  Start the server, or name another"
    with pytest.raises(TrackingError, match=message), start_run(config, str(tmp_path), "stage"):
        pass
    assert not list(tmp_path.iterdir())


def test_the_command_delivers_what_a_run_left_behind(
    tmp_path: Path, new_store: Callable[[Path], str], capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    from esans.cli import main

    uri = new_store(tmp_path)
    run_id = MlflowClient(uri).create_run("0").info.run_id
    box = Box.claim(root_of(str(tmp_path)), run_id, uri)
    box.append(metric(3))
    box.release()
    before = signal.getsignal(signal.SIGTERM)
    try:
        main(["deliver", str(tmp_path)])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert f"delivered 1 entries of run {run_id} to {uri}" in capsys.readouterr().out.replace("\n", "")
    assert MlflowClient(uri).get_run(run_id).data.metrics == {"loss": 3.0}
    assert not root_of(str(tmp_path)).exists()


def test_a_folder_among_the_temporary_files_that_another_made_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    root = root_of("memory://store/work")
    assert root.parent.stat().st_mode & 0o777 == 0o700
    root.parent.rename(tmp_path / "elsewhere")
    root.parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EsansError, match="is not this user's own folder"):
        root_of("memory://store/work")
