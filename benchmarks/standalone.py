"""A real Spark cluster on loopback, from the pip package alone, with its processes watched from outside."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.processes import free_port, service, wait_for

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
def standalone(
    folder: Path, *, workers: int, cores: int, memory: str, python_path: Path | None = None, worker_options: str = ""
) -> Iterator[Standalone]:
    """One master and some workers of `cores` cores each; logs and executors' files below `folder`.

    Args:
        folder: for logs, shuffle files and what executors write.
        workers: how many.
        cores: of each.
        memory: of each, as Spark writes it.
        python_path: folder that executors and jobs import from; None leaves that to what is submitted.
        worker_options: JVM options of the workers, as SPARK_WORKER_OPTS.
    """
    import pyspark

    from esans.environment import require_java

    home = Path(pyspark.__file__).parent
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_", "PYTHONPATH"))}
    env |= {"JAVA_HOME": str(require_java()), "SPARK_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_DAEMON_MEMORY": "256m"}
    # Shuffle files lie beside the rest of the work, not in whatever /tmp holds.
    env |= {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_DIRS": str(folder / "local")}
    if worker_options:
        env["SPARK_WORKER_OPTS"] = worker_options
    if python_path is not None:
        env["PYTHONPATH"] = str(python_path)
    folder.mkdir(parents=True, exist_ok=True)
    port, page = free_port(), free_port()
    master, state = f"spark://127.0.0.1:{port}", f"http://127.0.0.1:{page}/json/"
    java, address, log = str(home / "bin" / "spark-class"), ["--host", "127.0.0.1"], folder / "master.log"
    command = [java, "org.apache.spark.deploy.master.Master", *address, "--port", str(port), "--webui-port", str(page)]
    with ExitStack() as stack:
        leader = stack.enter_context(service(command, log, env))
        wait_for(state, '"status" : "ALIVE"', leader, log)
        running = []
        for number in range(workers):
            command = [java, "org.apache.spark.deploy.worker.Worker", *address, "--webui-port", "0", "--cores", str(cores)]
            command += ["--memory", memory, "--work-dir", str(folder / f"worker{number}"), master]
            running.append(stack.enter_context(service(command, folder / f"worker{number}.log", env)))
        wait_for(state, f'"aliveworkers" : {workers}', leader, log)
        yield Standalone(master, home, env, [process.pid for process in running])


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
    with service([*command, str(script), *arguments], log, cluster.env) as process:
        watcher = threading.Thread(target=peak.watch, args=(process.pid, cluster.workers), daemon=True)
        watcher.start()
        try:
            code = process.wait()
        finally:
            peak._stop.set()
            watcher.join()
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
