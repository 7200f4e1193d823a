"""Running jobs and services as processes of their own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    """A port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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


# Runs the command that follows it, to be stopped by the kernel when the test run dies: one that is killed cleans nothing up.
_WITH_PARENT = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
os.execvp(sys.argv[1], sys.argv[1:])
"""


@contextmanager
def service(command: Sequence[str], log: Path, env: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A background process with its children, killed at the end whatever happens."""
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", _WITH_PARENT, *command], stdout=stream, stderr=subprocess.STDOUT, env=dict(env), start_new_session=True
        )
    try:
        yield process
    finally:
        for kind in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, kind)
                process.wait(timeout=10)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        process.wait(timeout=10)


def wait_for(url: str, wanted: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 90) -> None:
    """Poll a page until it holds `wanted`; fail with the log when the process dies or time runs out."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, f"ended with {process.returncode}:\n{log.read_text()[-4000:]}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if wanted in answer.read().decode():
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.3)
    raise AssertionError(f"{url} never showed {wanted!r}:\n{log.read_text()[-4000:]}")


@dataclass(frozen=True)
class SparkCluster:
    """A standalone cluster and how to submit to it."""

    master: str
    spark_submit: str
    env: Mapping[str, str]
    py_files: Path

    def submit(self, script: Path, *arguments: str, cwd: Path, timeout: float = 500) -> subprocess.CompletedProcess[str]:
        """spark-submit as docs/cluster.md writes it, from a folder that is not the clone."""
        command = [self.spark_submit, "--master", self.master, "--py-files", str(self.py_files)]
        command += ["--executor-memory", "700m", "--driver-memory", "1g"]
        command += ["--conf", "spark.ui.enabled=false", "--conf", "spark.driver.host=127.0.0.1"]
        # Jobs of seconds never repay the optimising compiler.
        quick = "-XX:TieredStopAtLevel=1"
        command += ["--conf", f"spark.driver.extraJavaOptions={quick}", "--conf", f"spark.executor.extraJavaOptions={quick}"]
        command += [str(script), *arguments]
        return subprocess.run(command, cwd=cwd, env=dict(self.env), capture_output=True, text=True, timeout=timeout, check=False)
