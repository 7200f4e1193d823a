"""The Spark stages on a real standalone cluster give the tables that local mode gives."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from esans.bundle import Bundle
from esans.flow import Plan, run_stage
from esans.settings import Source
from tests.integration.processes import ROOT, SparkCluster, succeeded

# In the order of the flow: each reads what the one before wrote in the same mode.
SPARK_STAGES = ("prepare", "features", "align", "cluster", "shards")

_PROBE = """
import importlib.metadata, sys
from pyspark.sql import SparkSession
spark = SparkSession.builder.getOrCreate()
def where(part):
    import os
    import esans.columns
    yield f"{os.getpid()} {esans.columns.__file__} {importlib.metadata.version('esans')}"
seen = spark.sparkContext.parallelize(range(8), 8).mapPartitions(where).distinct().collect()
import esans
print("driver", esans.__file__)
print("\\n".join(f"worker {line}" for line in seen))
print("master", spark.sparkContext.master)
spark.stop()
"""


def test_the_zip_reaches_driver_and_workers_with_its_metadata(spark_cluster: SparkCluster, tmp_path: Path) -> None:
    (tmp_path / "probe.py").write_text(_PROBE)
    lines = succeeded(spark_cluster.submit(tmp_path / "probe.py", cwd=tmp_path)).splitlines()
    assert f"master {spark_cluster.master}" in lines
    places = [line for line in lines if line.startswith(("driver", "worker"))]
    assert len(places) >= 3  # a driver, and a process on each of two workers
    assert all("esans.zip" in line for line in places)


@pytest.fixture(scope="module")
def plans(retail_slice: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Plan]:
    """The same settings over two work folders."""
    folder = tmp_path_factory.mktemp("compare")
    return {mode: Plan(Source((str(retail_slice),), (f"--work_dir={folder / mode}",)).load()) for mode in ("cluster", "local")}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("stage", SPARK_STAGES)
def test_a_stage_on_the_cluster_writes_what_it_writes_locally(
    stage: str, spark_cluster: SparkCluster, plans: dict[str, Plan], retail_slice: Path, spark: SparkSession, tmp_path: Path
) -> None:
    work_dir = plans["cluster"].settings.work_dir
    succeeded(spark_cluster.submit(ROOT / "jobs" / f"{stage}.py", "--config", str(retail_slice), f"--work_dir={work_dir}", cwd=tmp_path))
    local = run_stage(plans["local"], stage)
    cluster = Bundle.open(plans["cluster"].stage(stage).uri)
    assert cluster.manifest["fingerprint"] == local.manifest["fingerprint"]
    assert set(cluster.manifest["tables"]) == set(local.manifest["tables"])
    for name in local.manifest["tables"]:
        assert_same_rows(cluster.table(name).arrow(), local.table(name).arrow(), f"{stage}.{name}")


@pytest.mark.timeout(300)
def test_an_executor_killed_while_the_graph_is_made_leaves_the_same_tables(
    spark_cluster: SparkCluster, plans: dict[str, Plan], retail_slice: Path, spark: SparkSession, tmp_path: Path
) -> None:
    undisturbed = [run_stage(plans["local"], stage) for stage in ("prepare", "features")][-1]
    work_dir = tmp_path / "killed"
    work_dir.mkdir()
    (work_dir / "prepare").symlink_to(Path(plans["local"].settings.work_dir) / "prepare")
    plan = Plan(Source((str(retail_slice),), (f"--work_dir={work_dir}",)).load())
    arguments = (ROOT / "jobs" / "features.py", "--config", str(retail_slice), f"--work_dir={work_dir}")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(spark_cluster.submit, *arguments, cwd=tmp_path)
        folder = Path(plan.stage("features").uri.removeprefix("file://"))
        while not list(folder.glob("attempt-*/graph")):
            assert not running.done(), succeeded(running.result())
            time.sleep(0.05)
        victim = executors_of_this_run()[0]
        victim.kill()
        assert not list(folder.glob("attempt-*/graph/_SUCCESS"))
        succeeded(running.result())
    survived = Bundle.open(plan.stage("features").uri)
    for name in undisturbed.manifest["tables"]:
        assert_same_rows(survived.table(name).arrow(), undisturbed.table(name).arrow(), f"features.{name}")


def executors_of_this_run() -> list[psutil.Process]:
    """Java processes of executors below this process: nobody else's."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.name() == "java" and any("CoarseGrainedExecutorBackend" in word for word in process.cmdline()):
                found.append(process)
    return found


def assert_same_rows(left: pa.Table, right: pa.Table, name: str) -> None:
    """Same schema and the same rows in any order; floats to the last digits that an order of summation may touch."""
    assert left.schema.remove_metadata() == right.schema.remove_metadata(), name
    assert left.num_rows == right.num_rows, name
    exact = [field.name for field in left.schema if not _is_float(field.type)]
    rough = [field.name for field in left.schema if _is_float(field.type)]
    first, second = (_sorted(table, exact) for table in (left, right))
    assert first.select(exact).to_pylist() == second.select(exact).to_pylist(), name
    for column in rough:
        for place, (one, other) in enumerate(zip(first[column].to_pylist(), second[column].to_pylist(), strict=True)):
            assert (one is None) == (other is None), f"{name}.{column} row {place}"
            if one is not None:
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5, err_msg=f"{name}.{column} row {place}")


def _is_float(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or (pa.types.is_list(kind) and pa.types.is_floating(kind.value_type))


def _sorted(table: pa.Table, keys: list[str]) -> pa.Table:
    # Lists cannot be sorted by Arrow; a row's exact columns as text give both sides the same order.
    texts = [repr(row) for row in table.select(keys).to_pylist()]
    return table.take(pa.array(sorted(range(len(texts)), key=texts.__getitem__), pa.int64()))
