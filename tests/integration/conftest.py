"""Real components, started as processes on loopback and surely stopped: a Spark cluster, an MLflow server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from esans.environment import require_java
from tests.integration.processes import ROOT, SparkCluster, free_port, service, wait_for
from tests.integration.slice import write_slice


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is an integration test."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def retail_slice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration file over a small real slice of data/online_retail."""
    return write_slice(ROOT / "data" / "online_retail", ROOT / "conf" / "experiments", tmp_path_factory.mktemp("slice"))


@pytest.fixture(scope="session")
def py_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """esans.zip as `make package` makes it: the wheel under the name that Spark takes."""
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(ROOT / "esans", source / "esans", ignore=shutil.ignore_patterns("__pycache__"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(folder),
        str(source),
    ]
    subprocess.run(command, check=True, timeout=120)
    (wheel,) = folder.glob("esans-*.whl")
    return wheel.rename(folder / "esans.zip")


@pytest.fixture(scope="session")
def spark_cluster(tmp_path_factory: pytest.TempPathFactory, py_files: Path) -> Iterator[SparkCluster]:
    """One master and two workers of one core, from the pip package alone."""
    import pyspark

    folder = tmp_path_factory.mktemp("cluster")
    home = Path(pyspark.__file__).parent
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_", "PYTHONPATH"))}
    env |= {
        "JAVA_HOME": str(require_java()),
        "SPARK_HOME": str(home),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_DAEMON_MEMORY": "256m",
        "PYSPARK_PYTHON": sys.executable,
    }
    port, page = free_port(), free_port()
    master = f"spark://127.0.0.1:{port}"
    spark_class = str(home / "bin" / "spark-class")
    command = [spark_class, "org.apache.spark.deploy.master.Master", "--host", "127.0.0.1", "--port", str(port), "--webui-port", str(page)]
    state = f"http://127.0.0.1:{page}/json/"
    with service(command, folder / "master.log", env) as process:
        wait_for(state, '"status" : "ALIVE"', process, folder / "master.log")
        with _worker(1, spark_class, master, folder, env), _worker(2, spark_class, master, folder, env):
            wait_for(state, '"aliveworkers" : 2', process, folder / "master.log")
            yield SparkCluster(master, str(home / "bin" / "spark-submit"), env, py_files)


@contextmanager
def _worker(number: int, spark_class: str, master: str, folder: Path, env: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    command = [spark_class, "org.apache.spark.deploy.worker.Worker", "--host", "127.0.0.1", "--webui-port", "0", "--cores", "1"]
    command += ["--memory", "1g", "--work-dir", str(folder / f"worker{number}"), master]
    with service(command, folder / f"worker{number}.log", env) as process:
        yield process


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of an MLflow server with an SQLite store that also serves the artifacts."""
    folder = tmp_path_factory.mktemp("mlflow")
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts")]
    with service(command, folder / "server.log", os.environ) as process:
        wait_for(f"http://127.0.0.1:{port}/health", "OK", process, folder / "server.log")
        yield f"http://127.0.0.1:{port}"
