"""kill -9 in the middle of `esans recommend`: finished part files stay, the rest is done, and the result is that of a quiet run."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from pyspark.sql import SparkSession

from esans.bundle import Bundle, BundleWriter
from esans.flow import Plan, run_stage
from esans.model import TwoTower, save
from esans.model.config import ModelConfig
from esans.settings import Source
from tests.integration.processes import run_job, succeeded
from tests.integration.test_killed import kill_when
from tests.jvm import quick_java
from tests.retrieval.small import random_users, write_prepare

ITEMS, USERS = 48, 1000


def write_world(folder: Path, store: Path) -> Path:
    """A configuration whose prepare and train bundles are there: 1,000 users in chunks of 4. Returns its file."""
    for name in ("items", "interactions"):
        pq.write_table(pa.table({"x": [1]}), folder / f"{name}.parquet")
    columns = {"user_id": "u", "item_id": "i", "timestamp": "t"}
    prepare = {
        "items": {"path": str(folder / "items.parquet"), "columns": {"item_id": "i"}},
        "interactions": {"path": str(folder / "interactions.parquet"), "columns": columns},
    }
    spark = {"master": "local[1]", "driver_memory": "1g", "shuffle_partitions": 2, "java_options": quick_java()}
    values = {
        "work_dir": str(folder / "work"),
        "spark": spark,
        "tracking": {"system_metrics": False},
        "prepare": prepare,
        "recommend": {"k": 5, "chunk_users": 4},
    }
    config = folder / "small.yaml"
    config.write_text(yaml.safe_dump(values))
    (folder / "work").mkdir()
    shutil.copy(store, folder / "work" / "mlflow.db")
    plan = Plan(Source((str(config),), ()).load())
    made = write_prepare(folder, random_users(3, USERS, ITEMS), ITEMS)
    at = Path(plan.stage("prepare").uri.removeprefix("file://"))
    shutil.copytree(made.uri.removeprefix("file://"), at)
    torch.manual_seed(0)
    train = BundleWriter(plan.stage("train").uri, "train", plan.stage("train").fingerprint)
    with train.local("model") as target:
        save(TwoTower(ModelConfig(dim=8, hidden=8), ITEMS, USERS, 6, 0, []), target)
    train.finish(code_version=1, config={}, inputs={})
    return config


@pytest.mark.timeout(600)
def test_a_killed_run_goes_on_behind_its_last_part_and_ends_with_the_same_table(
    tmp_path: Path, empty_store: Path, spark: SparkSession
) -> None:
    config = write_world(tmp_path, empty_store)
    quiet_folder = tmp_path / "quiet"
    shutil.copytree(tmp_path / "work", quiet_folder)
    arguments = ["--config", str(config)]
    settings = Source((str(config),), ()).load()
    uri = Plan(settings).stage("recommend").uri
    folder = Path(uri.removeprefix("file://"))

    def part_files() -> dict[str, tuple[int, int]]:
        return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("attempt-*/recommendations/*.parquet")}

    code = kill_when([sys.executable, "jobs/recommend.py", *arguments], lambda: len(part_files()) >= 3)
    assert code == -signal.SIGKILL
    before = part_files()
    assert 3 <= len(before) < USERS / 4
    assert Bundle.find(uri) is None

    text = succeeded(run_job("recommend", *arguments))
    assert "users were done before, by a run that did not end" in text
    assert before.items() <= part_files().items()
    bundle = Bundle.open(uri)
    assert bundle.figures["users"] == bundle.table("recommendations").rows == USERS
    quiet = run_stage(Plan(Source((str(config),), (f"--work_dir={quiet_folder}",)).load()), "recommend")
    assert [file.name for file in quiet.table("recommendations").files] == [file.name for file in bundle.table("recommendations").files]
    assert quiet.table("recommendations").arrow().equals(bundle.table("recommendations").arrow())
