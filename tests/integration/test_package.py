"""`esans package`: its script runs a stage on a real cluster, and its environment runs where it is unpacked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from esans.bundle import Bundle
from esans.flow import Plan
from esans.packing import closure, pack
from esans.settings import Source
from tests.integration.processes import ROOT, SparkCluster, succeeded
from tests.jvm import quick_java

_PROBE = """
import json
from pyspark.sql import SparkSession
spark = SparkSession.builder.getOrCreate()
def where(part):
    import sys, esans.config, pydantic, ssl, sqlite3
    yield [sys.prefix, esans.config.__file__, pydantic.__file__]
print("workers", json.dumps(spark.sparkContext.parallelize(range(4), 4).mapPartitions(where).collect()))
spark.stop()
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, py_files: Path) -> Path:
    """An environment of a few packages; `esans package` puts in all that the project requires, which takes a minute."""
    archive = tmp_path_factory.mktemp("packed") / "environment.tar.gz"
    pack(py_files, closure([Requirement(name) for name in ("pydantic", "fsspec", "PyYAML")]), archive)
    return archive


def test_an_unpacked_environment_runs_on_its_own_interpreter_libraries_and_packages(environment: Path, tmp_path: Path) -> None:
    with tarfile.open(environment) as archive:
        archive.extractall(tmp_path / "elsewhere", filter="tar")
    home = tmp_path / "elsewhere"
    code = "import json, sys, ssl, sqlite3, esans.config; print(json.dumps([getattr(m, '__file__', None) for m in sys.modules.values()]))"
    bare = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run([home / "bin" / "python", "-c", code], cwd="/", env=bare, capture_output=True, text=True, timeout=60, check=False)
    files = [file for file in json.loads(succeeded(done)) if file]
    assert any("esans" in file for file in files)
    assert all(file.startswith(str(home)) for file in files)
    scripts = subprocess.run(["grep", "-l", sys.prefix, "-r", home / "bin"], capture_output=True, text=True, check=False).stdout
    assert scripts == ""


def test_executors_run_the_environment_that_spark_unpacks_for_them(environment: Path, spark_cluster: SparkCluster, tmp_path: Path) -> None:
    (tmp_path / "probe.py").write_text(_PROBE)
    options = ["--archives", f"{environment}#environment", "--conf", "spark.pyspark.python=./environment/bin/python"]
    options += ["--conf", f"spark.pyspark.driver.python={sys.executable}", "--py-files", ""]
    # The workers' own choice of an interpreter would come first.
    cluster = SparkCluster(
        spark_cluster.master,
        spark_cluster.spark_submit,
        {name: value for name, value in spark_cluster.env.items() if name != "PYSPARK_PYTHON"},
        spark_cluster.py_files,
    )
    printed = succeeded(cluster.submit(tmp_path / "probe.py", cwd=tmp_path, options=options))
    seen = json.loads(next(line for line in printed.splitlines() if line.startswith("workers")).removeprefix("workers"))
    assert len(seen) == 4
    for files in seen:
        assert all("/environment" in file for file in files)


@pytest.mark.timeout(600)
def test_the_printed_script_runs_a_stage_on_a_standalone_cluster(spark_cluster: SparkCluster, retail_slice: Path, tmp_path: Path) -> None:
    sizes = ["--executor-memory", "700m", "--driver-memory", "1g", "--executors", "2", "--executor-cores", "1"]
    command = [sys.executable, "-m", "esans.cli", "package", "--no-environment", "--output", str(tmp_path / "dist"), *sizes]
    command += ["--master", spark_cluster.master, "--config", str(retail_slice)]
    lines = succeeded(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)).splitlines()
    stage = next(place for place, line in enumerate(lines) if line.startswith("submit jobs/prepare.py"))
    lines[stage] += f" --work_dir={tmp_path / 'work'}"
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    bin_folder = Path(spark_cluster.spark_submit).parent
    env = {**spark_cluster.env, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    env |= {"SPARK_SUBMIT_OPTS": f"-Dspark.ui.enabled=false -Dspark.driver.host=127.0.0.1 {quick_java()}"}
    script = "set -e\n" + "\n".join(lines[: stage + 1])
    succeeded(subprocess.run(["sh", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200, check=False))
    plan = Plan(Source((str(retail_slice),), (f"--work_dir={tmp_path / 'work'}",)).load())
    assert Bundle.open(plan.stage("prepare").uri).table("interactions").rows > 0
