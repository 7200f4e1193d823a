"""Real components, started as processes on loopback and surely stopped: a Spark cluster, an MLflow server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.processes import free_port
from benchmarks.standalone import standalone
from esans.packing import build_wheel
from tests.integration.processes import ROOT, SparkCluster, mlflow_service
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
    """esans.zip as `esans package` makes it: the wheel under the name that Spark takes."""
    folder = tmp_path_factory.mktemp("package")
    return build_wheel(ROOT, folder).rename(folder / "esans.zip")


@pytest.fixture(scope="session")
def spark_cluster(tmp_path_factory: pytest.TempPathFactory, py_files: Path) -> Iterator[SparkCluster]:
    """One master and two workers of one core, from the pip package alone."""
    with standalone(tmp_path_factory.mktemp("cluster"), workers=2, cores=1, memory="1g") as cluster:
        yield SparkCluster(cluster.master, str(cluster.home / "bin" / "spark-submit"), cluster.env, py_files)


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[str]:
    """URL of an MLflow server with an SQLite store that also serves the artifacts."""
    with mlflow_service(tmp_path_factory.mktemp("mlflow"), empty_store, free_port()) as server:
        yield server.url
