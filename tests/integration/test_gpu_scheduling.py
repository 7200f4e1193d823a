"""GPUs that Spark schedules: a real worker finds them with a script (which makes them up here), and tasks take the ones they are given."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.standalone import standalone
from tests.integration.processes import SparkCluster, succeeded

ADDRESSES = ("2", "5")

_PROBE = """
import json, sys, time
import gpu_work
from esans.config import build
from esans.features.worker import device
from esans.launch import LaunchConfig, launch
from pyspark.sql import SparkSession

spark = SparkSession.builder.getOrCreate()

def encode(part):
    import torch
    from pyspark import BarrierTaskContext
    torch.cuda.is_available = lambda: True  # no GPU is here; which one an encoder would take is asked
    context = BarrierTaskContext.get()
    context.barrier()
    yield list(context.resources()["gpu"].addresses), device(context)

seen = spark.sparkContext.parallelize(range(2), 2).barrier().mapPartitions(encode).collect()
print("encoders", json.dumps(seen))
config = build(LaunchConfig, {"mode": "spark", "processes": 2, "device": "auto", "threads": 1})
launch("gpu_work:work", "{}", config, sys.argv[1], spark)
spark.stop()
"""

_WORK = """
import json, os, pathlib
def work(spec):
    rank = os.environ["RANK"]
    import esans
    told = [os.environ["CUDA_VISIBLE_DEVICES"], esans.__file__]
    pathlib.Path(os.environ["SEEN"], f"rank{rank}").write_text(json.dumps(told))
"""


@pytest.fixture(scope="module")
def gpu_cluster(tmp_path_factory: pytest.TempPathFactory, py_files: Path) -> Iterator[SparkCluster]:
    """One worker whose discovery script, called by Spark as it would be on a GPU host, tells of two GPUs."""
    folder = tmp_path_factory.mktemp("gpus")
    script = folder / "discover.sh"
    script.write_text(f"#!/bin/sh\necho '{json.dumps({'name': 'gpu', 'addresses': ADDRESSES})}'\n")
    script.chmod(0o755)
    options = f"-Dspark.worker.resource.gpu.amount=2 -Dspark.worker.resource.gpu.discoveryScript={script}"
    with standalone(folder, workers=1, cores=2, memory="1g", worker_options=options) as cluster:
        yield SparkCluster(cluster.master, str(cluster.home / "bin" / "spark-submit"), cluster.env, py_files)


@pytest.mark.timeout(600)
def test_each_task_and_each_training_process_takes_the_gpu_that_spark_gave_it(gpu_cluster: SparkCluster, tmp_path: Path) -> None:
    (tmp_path / "probe.py").write_text(_PROBE)
    (tmp_path / "gpu_work.py").write_text(_WORK)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    conf = {"spark.executor.resource.gpu.amount": "2", "spark.task.resource.gpu.amount": "1", "spark.executorEnv.SEEN": str(tmp_path)}
    options = [word for name, value in conf.items() for word in ("--conf", f"{name}={value}")]
    options += ["--py-files", f"{gpu_cluster.py_files},{tmp_path / 'gpu_work.py'}"]
    lines = succeeded(gpu_cluster.submit(tmp_path / "probe.py", scratch.as_uri(), cwd=tmp_path, options=options)).splitlines()
    seen = json.loads(next(line for line in lines if line.startswith("encoders")).removeprefix("encoders"))
    assert sorted(seen) == [[[address], f"cuda:{address}"] for address in ADDRESSES]
    # TorchDistributor starts the ranks in barrier mode and shows each its own GPU alone; --py-files reach them too.
    told = [json.loads((tmp_path / f"rank{rank}").read_text()) for rank in range(2)]
    assert sorted(gpu for gpu, _ in told) == list(ADDRESSES)
    assert all("esans.zip" in file for _, file in told)
