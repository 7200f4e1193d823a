"""An encoder on the executors of a small cluster of this machine: one worker, which offers its GPU where there is one."""

from __future__ import annotations

import stat
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.standalone import standalone

ROOT = Path(__file__).resolve().parents[2]
# What Spark runs to learn of the GPUs.
_DISCOVERY = """#!/bin/sh
printf '{"name": "gpu", "addresses": ["%s"]}' "$(nvidia-smi --query-gpu=index --format=csv,noheader | paste -sd, - | sed 's/, */","/g')"
"""


def encode(device: str) -> tuple[set[str], np.ndarray]:
    """Encode some texts on executors.

    Args:
        device: cuda, or cpu where executors offer no GPU.

    Returns:
        The devices that the tasks' models lay on, and (n, d) vectors.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = _worker(folder, device)
        with standalone(folder / "cluster", workers=1, cores=2, memory="2g", python_path=ROOT, worker_options=options) as cluster:
            command = [str(cluster.home / "bin" / "spark-submit"), "--master", cluster.master, "--executor-memory", "1g"]
            command += ["--driver-memory", "1g", "--conf", "spark.ui.enabled=false", "--conf", "spark.driver.host=127.0.0.1"]
            command += ["--conf", f"spark.executorEnv.PYTHONPATH={ROOT}"]
            if device == "cuda":
                command += ["--conf", "spark.executor.resource.gpu.amount=1", "--conf", "spark.task.resource.gpu.amount=0.5"]
            command += [str(Path(__file__).with_name("encode_job.py")), str(folder / "out")]
            done = subprocess.run(command, cwd=folder, env=dict(cluster.env), capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            raise AssertionError(f"the job ended with {done.returncode}: {done.stderr[-2000:]}")
        table = pq.read_table(folder / "out")
    return set(table["device"].to_pylist()), np.array(table["vector"].to_pylist(), np.float32)


def _worker(folder: Path, device: str) -> str:
    """JVM options of the worker: its GPU, and the script that names it."""
    if device == "cpu":
        return ""
    script = folder / "discover.sh"
    script.write_text(_DISCOVERY)
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return f"-Dspark.worker.resource.gpu.amount=1 -Dspark.worker.resource.gpu.discoveryScript={script}"
