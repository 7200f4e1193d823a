"""A real Spark cluster on loopback, from the pip package alone, with its processes watched from outside."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
_SAMPLE_SECONDS = 0.25


@dataclass(frozen=True)
class Standalone:
    """A running cluster."""

    master: str
    home: Path
    env: Mapping[str, str]
    workers: Sequence[int]
    """Process ids of the workers, whose descendants are the executors."""


@contextmanager
def standalone(folder: Path, *, workers: int, cores: int, memory: str) -> Iterator[Standalone]:
    """One master and some workers of `cores` cores each; logs and executors' files below `folder`."""
    import pyspark

    from esans.environment import require_java

    home = Path(pyspark.__file__).parent
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_", "PYTHONPATH"))}
    env |= {"JAVA_HOME": str(require_java()), "SPARK_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_DAEMON_MEMORY": "256m"}
    # Shuffle files lie beside the rest of the work, not in whatever /tmp holds.
    env |= {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_DIRS": str(folder / "local")}
    # The project beside this file, whatever else is installed.
    env["PYTHONPATH"] = str(ROOT)
    folder.mkdir(parents=True, exist_ok=True)
    port, page = _free_port(), _free_port()
    master, state = f"spark://127.0.0.1:{port}", f"http://127.0.0.1:{page}/json/"
    java = [str(home / "bin" / "spark-class")]
    address = ["--host", "127.0.0.1"]
    command = [*java, "org.apache.spark.deploy.master.Master", *address, "--port", str(port), "--webui-port", str(page)]
    running = [_start(command, folder / "master.log", env)]
    try:
        _wait_for(state, '"status" : "ALIVE"', folder / "master.log")
        for number in range(workers):
            command = [*java, "org.apache.spark.deploy.worker.Worker", *address, "--webui-port", "0", "--cores", str(cores)]
            command += ["--memory", memory, "--work-dir", str(folder / f"worker{number}"), master]
            running.append(_start(command, folder / f"worker{number}.log", env))
        _wait_for(state, f'"aliveworkers" : {workers}', folder / "master.log")
        yield Standalone(master, home, env, [process.pid for process in running[1:]])
    finally:
        for process in reversed(running):
            _stop(process)


@dataclass
class Peak:
    """Most memory that some processes held together, in bytes of resident memory; what they share counts once for each."""

    driver: int = 0
    executors: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def watch(self, driver: int, workers: Sequence[int]) -> None:
        """Sample until stopped: the driver's process with all its children, and all children of the workers."""
        while not self._stop.wait(_SAMPLE_SECONDS):
            self.driver = max(self.driver, _resident([driver], itself=True))
            self.executors = max(self.executors, _resident(workers, itself=False))


def submit(cluster: Standalone, script: Path, arguments: Sequence[str], conf: Mapping[str, str], log: Path) -> tuple[float, Peak]:
    """spark-submit in client mode; returns wall seconds and peaks. Raises RuntimeError with the end of the log when it fails."""
    command = [str(cluster.home / "bin" / "spark-submit"), "--master", cluster.master]
    for name, value in conf.items():
        command += ["--conf", f"{name}={value}"]
    started, peak = time.perf_counter(), Peak()
    process = _start([*command, str(script), *arguments], log, cluster.env)
    watcher = threading.Thread(target=peak.watch, args=(process.pid, cluster.workers), daemon=True)
    watcher.start()
    try:
        code = process.wait()
    finally:
        peak._stop.set()
        watcher.join()
        _stop(process)
    if code:
        raise RuntimeError(f"{script.name} ended with {code}:\n{log.read_text(errors='replace')[-6000:]}")
    return time.perf_counter() - started, peak


def _resident(roots: Sequence[int], *, itself: bool) -> int:
    total = 0
    for root in roots:
        try:
            top = psutil.Process(root)
            for process in ([top] if itself else []) + top.children(recursive=True):
                try:
                    total += process.memory_info().rss
                except psutil.Error:
                    continue
        except psutil.Error:
            continue
    return total


def _start(command: Sequence[str], log: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with log.open("wb") as stream:
        return subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=dict(env), start_new_session=True)


def _stop(process: subprocess.Popen[bytes]) -> None:
    for kind in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, kind)
            process.wait(timeout=15)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(url: str, wanted: str, log: Path, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if wanted in answer.read().decode():
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.2)
    raise RuntimeError(f"{url} never showed {wanted!r}:\n{log.read_text(errors='replace')[-3000:]}")
