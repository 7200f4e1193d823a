"""Running jobs and services as processes of their own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import service, wait_for
from tests.jvm import quick_java

ROOT = Path(__file__).resolve().parents[2]


def run_job(
    job: str, *arguments: str, env: Mapping[str, str] | None = None, cwd: Path = ROOT, timeout: float = 500
) -> subprocess.CompletedProcess[str]:
    """Run jobs/<job>.py to its end, in a process of its own."""
    command = [sys.executable, str(ROOT / "jobs" / f"{job}.py"), *arguments]
    return subprocess.run(command, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=timeout, check=False)


def succeeded(done: subprocess.CompletedProcess[str]) -> str:
    """Standard output of a process that ended well; both outputs in the failure otherwise."""
    assert done.returncode == 0, f"{done.args}\n--- stdout\n{done.stdout[-6000:]}\n--- stderr\n{done.stderr[-6000:]}"
    return done.stdout


@dataclass(frozen=True)
class MLflow:
    """A running server."""

    url: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """End it outright, with its children."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def mlflow_service(folder: Path, empty_store: Path, port: int) -> Iterator[MLflow]:
    """An MLflow server on loopback with its SQLite store, a copy of `empty_store` at first, and its artifacts in `folder`."""
    if not (folder / "mlflow.db").exists():
        shutil.copy(empty_store, folder / "mlflow.db")
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts")]
    # The server's own jobs, which nothing here uses, would be eight processes more.
    with service(command, folder / "server.log", {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}) as process:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/health", "OK", process, folder / "server.log", seconds=180)
        yield MLflow(url, process)


@dataclass(frozen=True)
class SparkCluster:
    """A standalone cluster and how to submit to it."""

    master: str
    spark_submit: str
    env: Mapping[str, str]
    py_files: Path

    def submit(
        self, script: Path, *arguments: str, cwd: Path, options: Sequence[str] = (), timeout: float = 500
    ) -> subprocess.CompletedProcess[str]:
        """spark-submit as docs/cluster.md writes it, from a folder that is not the clone; a later one of two equal options wins."""
        command = [self.spark_submit, "--master", self.master, "--py-files", str(self.py_files)]
        command += ["--executor-memory", "700m", "--driver-memory", "1g"]
        command += ["--conf", "spark.ui.enabled=false", "--conf", "spark.driver.host=127.0.0.1"]
        quick = quick_java()
        command += ["--conf", f"spark.driver.extraJavaOptions={quick}", "--conf", f"spark.executor.extraJavaOptions={quick}"]
        command += [*options, str(script), *arguments]
        return subprocess.run(command, cwd=cwd, env=dict(self.env), capture_output=True, text=True, timeout=timeout, check=False)
