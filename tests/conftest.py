"""Fixtures that every test folder shares: one Spark session, and the real data beside the project where it is present."""

from __future__ import annotations

import os
from collections.abc import Iterator
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

    session = open_session(
        SparkConfig(master="local[2]", driver_memory="2g", shuffle_partitions=2, java_options="-XX:TieredStopAtLevel=1"), "esans-tests"
    )
    yield session
    session.stop()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real data sets that lie beside the project; the test is skipped where they are absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the data sets beside the project (../shared/data) are not here")
    return folder
