"""Fixtures that every test folder shares: one Spark session, and the real data beside the project where it is present."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Tests must not write to a tracking server that the developer's shell names.
os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """One local session for all unit tests."""
    from esans.spark import SparkConfig, open_session
    from tests.jvm import quick_java

    session = open_session(
        SparkConfig(master="local[2]", driver_memory="2g", shuffle_partitions=2, java_options=quick_java()), "esans-tests"
    )
    yield session
    session.stop()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs, to copy: making one takes MLflow many seconds of migrations. One for all xdist workers."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    path = folder / "empty.db"
    with (folder / "empty.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            from mlflow import MlflowClient

            MlflowClient(f"sqlite:///{path}.part").search_experiments()
            Path(f"{path}.part").rename(path)
    return path


@pytest.fixture(scope="session")
def new_store(empty_store: Path) -> Callable[[Path], str]:
    """Puts an MLflow database without runs where runs over a work folder are kept, and returns its URI."""

    def put(work_dir: Path) -> str:
        work_dir.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{shutil.copy(empty_store, work_dir / 'mlflow.db')}"

    return put


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real data sets that lie beside the project; the test is skipped where they are absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the data sets beside the project (../shared/data) are not here")
    return folder
