"""Each line of the doctor fails on its real cause, and says what to do."""

from __future__ import annotations

import http.server
import importlib.metadata
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.processes import free_port
from esans import environment
from esans.commands import doctor as command
from esans.config import build
from esans.doctor import accelerators, machine, services
from esans.doctor.line import Line
from esans.launch import LaunchConfig
from esans.settings import Settings
from esans.spark import SparkConfig
from esans.tracking import TrackingConfig

ROOT = Path(__file__).resolve().parents[2]


def settings(work_dir: Path, **keys: object) -> Settings:
    return build(Settings, {"work_dir": str(work_dir), **keys})


def states(lines: list[Line]) -> dict[str, str]:
    return {line.name: line.state for line in lines}


def test_here_nothing_fails_and_what_is_no_failure_needs_no_cure(tmp_path: Path, new_store: Callable[[Path], str]) -> None:
    new_store(tmp_path)
    lines = list(command.examine(settings(tmp_path, spark={"driver_memory": "100m"}), need_gb=0.001))
    assert "fail" not in states(lines).values()
    assert list(states(lines)) == [
        *("Python", "packages", "Java", "Spark", "GPUs", "NCCL", "faiss", "memory", "work_dir", "disk", "MLflow", "optional")
    ]
    assert all(bool(line.cure) == (line.state != "ok") for line in lines)


def test_the_command_ends_with_1_where_a_line_fails_and_its_json_says_which(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "esans.cli", "doctor", f"--work_dir={tmp_path}", "--json", "--need-gb=1e9"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    answer = json.loads(done.stdout)
    assert done.returncode == 1
    assert not answer["ok"]
    assert [line["name"] for line in answer["lines"] if line["state"] == "fail"] == ["disk"]


@pytest.fixture
def no_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any Java, but for what JAVA_HOME names."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "_system_folders", lambda: [tmp_path / "jvm"])
    return tmp_path


def java_home(home: Path, version: str) -> Path:
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "java").touch(0o755)
    (home / "release").write_text(f'JAVA_VERSION="{version}"\n')
    return home


def test_a_wrong_java_home_fails_where_there_is_no_other_java(no_java: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(java_home(no_java / "old", "11.0.2")))
    line = machine.java()
    assert (line.state, line.found.partition(": ")[0]) == ("fail", f"JAVA_HOME={no_java}/old holds none that fits")
    assert "or set JAVA_HOME" in line.cure


def test_a_wrong_java_home_beside_a_good_java_is_a_warning_with_the_right_one(no_java: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = java_home(no_java / "jvm" / "java-17", "17.0.1")
    monkeypatch.setenv("JAVA_HOME", str(no_java / "nowhere"))
    line = machine.java()
    assert line == Line(
        "Java", "warn", f"17 ({good}); JAVA_HOME={no_java}/nowhere holds no Java", f"Set JAVA_HOME={good}, or unset it; 17 or 21 fits."
    )


def test_another_python_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 13, 1, "final", 0))
    assert machine.python().state == "fail"


def test_a_wrong_and_a_missing_package_are_both_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"pyarrow": "15.0.0", "faiss-cpu": "1.15.1"}

    def version(package: str) -> str:
        if package in found or package == "esans":
            return found.get(package, "0.1.0")
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "requires", lambda package: ["pyarrow==14.0.2", "numpy==1.26.4"])
    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(machine, "version", version)
    line = machine.pins()
    assert line.state == "fail"
    assert "pyarrow 15.0.0 is installed, and 14.0.2 is needed" in line.found
    assert "numpy is not installed" in line.found
    assert f"{sys.executable} -m pip install pyarrow==14.0.2" in line.cure


@pytest.mark.parametrize(
    ("installed", "gpus", "state"),
    [
        ({"faiss-cpu", "faiss-gpu"}, 0, "fail"),
        (set(), 0, "fail"),
        ({"faiss-cpu"}, 1, "warn"),
        ({"faiss-gpu"}, 1, "warn"),
        ({"faiss-cpu"}, 0, "ok"),
    ],
)
def test_exactly_one_build_of_faiss_may_be_there(installed: set[str], gpus: int, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss

    monkeypatch.setattr(accelerators, "_installed", lambda package: "1.15.1" if package in installed else None)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0, raising=False)
    assert accelerators.faiss(gpus).state == state


@pytest.mark.skipif(accelerators.count() > 0, reason="what the doctor says where there is no GPU; this machine has one")
def test_a_configuration_that_asks_for_a_gpu_fails_without_one() -> None:
    assert [line.state for line in accelerators.gpus(LaunchConfig(device="cuda"))] == ["fail", "ok"]


def test_a_heap_larger_than_the_machine_fails_and_one_larger_than_what_is_free_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_memory", lambda: (8 * 10**9, 2 * 10**9))
    assert [machine.memory(heap).state for heap in ("900m", "3g", "8g")] == ["ok", "warn", "fail"]


def test_a_disk_with_less_than_is_wanted_fails_and_one_with_little_more_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil.disk_usage(tmp_path).free / 1e9
    found = {bound: states(list(machine.work_dir(str(tmp_path / "not" / "yet"), bound)))["disk"] for bound in (0.01, free / 2, 2 * free)}
    assert list(found.values()) == ["ok", "warn", "fail"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_work_folder_that_cannot_be_written_fails(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert states(list(machine.work_dir(str(tmp_path), 0)))["work_dir"] == "fail"


def test_a_work_folder_below_a_file_fails_whoever_asks(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert states(list(machine.work_dir(str(tmp_path / "file" / "work"), 0)))["work_dir"] == "fail"


def test_a_work_folder_that_everybody_may_write_is_a_warning(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    assert states(list(machine.work_dir(str(tmp_path), 0)))["work_dir"] == "warn"


def test_a_store_without_its_package_fails_with_the_package() -> None:
    (line,) = machine.work_dir("gs://bucket/work", 0)
    assert (line.state, "gcsfs" in line.cure) == ("fail", True)


class Answers(http.server.BaseHTTPRequestHandler):
    """An MLflow server as far as its doors go: an old one, which asks for a login."""

    def do_GET(self) -> None:
        closed = self.path.startswith("/api") and self.headers.get("Authorization") != "Basic bWU6cGFzc3dvcmQ="
        self.send_response(401 if closed else 200)
        self.end_headers()
        self.wfile.write(b"2.9.0" if self.path == "/version" else b"OK")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def old_server() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def test_an_mlflow_that_nobody_answers_for_fails_in_seconds(tmp_path: Path) -> None:
    line = services.mlflow(TrackingConfig(uri=f"http://127.0.0.1:{free_port()}"), str(tmp_path))
    assert line.state == "fail"
    assert "does not answer" in line.found
    assert "Connection refused" in line.found


def test_an_mlflow_that_asks_for_a_login_fails_and_one_of_another_version_warns(old_server: str, tmp_path: Path) -> None:
    closed = services.mlflow(TrackingConfig(uri=f"http://{old_server}"), str(tmp_path))
    assert (closed.state, "MLFLOW_TRACKING_PASSWORD" in closed.cure) == ("fail", True)
    opened = services.mlflow(TrackingConfig(uri=f"http://me:password@{old_server}"), str(tmp_path))
    assert opened.state == "warn"
    assert "version 2.9.0" in opened.found
    assert "me:***@" in opened.found


def test_a_database_that_is_none_or_is_locked_or_has_no_driver_fails(
    tmp_path: Path, new_store: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "_SECONDS", 0.1)
    (tmp_path / "bad.db").write_text("no database at all, but long enough to be looked at")
    assert services.mlflow(TrackingConfig(uri=f"sqlite:///{tmp_path}/bad.db"), "").state == "fail"
    uri = new_store(tmp_path / "work")
    assert services.mlflow(TrackingConfig(uri=uri), "").state == "ok"
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as other:
        other.execute("begin exclusive")
        assert "locked" in services.mlflow(TrackingConfig(uri=uri), "").found
    assert services.mlflow(TrackingConfig(uri="mssql+pymssql://me:pass@127.0.0.1/x"), "").state == "fail"
    assert services.mlflow(TrackingConfig(uri="${env:NOT_SET_ANYWHERE}"), "").state == "fail"


def test_another_spark_home_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "RELEASE").write_text("Spark 3.5.1 (git revision abc) built for Hadoop 3.3.4\n")
    monkeypatch.setenv("SPARK_HOME", str(tmp_path))
    line = services.spark(SparkConfig(), start=False)
    assert line.state == "fail"
    assert f"SPARK_HOME={tmp_path} holds Spark 3.5.1" in line.found


def test_a_spark_that_does_not_start_fails_with_the_reason(tmp_path: Path) -> None:
    program = """
from esans.doctor.services import spark
from esans.spark import SparkConfig
print(spark(SparkConfig(master="no such master", driver_memory="512m"), start=True))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert "state='fail', found='no session under no such master: " in done.stdout
