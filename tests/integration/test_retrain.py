"""Nights of a small real shop: real jobs, killed outright at several points, refused, run twice, run side by side, and rolled back."""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from esans.bundle import Bundle
from esans.export.aliases import CHAMPION, aliases
from tests.integration.processes import ROOT, run_job, succeeded

EVE, DAY = datetime.date(2011, 12, 6), datetime.date(2011, 12, 7)
NAME = "online-retail-slice"
# A run of `esans retrain` that ends as by kill -9 right before the alias `champion` would move.
KILLED_AT_THE_LAST_ALIAS = """
import os, signal, sys
from mlflow import MlflowClient
from esans.cli import run_command
move = MlflowClient.set_registered_model_alias
def killed(self, name, alias, version):
    if alias == "champion":
        os.kill(os.getpid(), signal.SIGKILL)
    return move(self, name, alias, version)
MlflowClient.set_registered_model_alias = killed
run_command("retrain", sys.argv[1:])
"""


class Shop:
    """A work directory, its raw files, and the registry."""

    def __init__(self, config: Path, folder: Path, rows: pa.Table) -> None:
        self.folder, self.rows = folder, rows
        self.raw, self.work = folder / "raw", folder / "work"
        self.raw.mkdir()
        self.arguments = [
            "--config",
            str(config),
            f"--work_dir={self.work}",
            f"--prepare.interactions.path={self.raw}",
            f"--export.registry.name={NAME}",
            "--export.towers=false",
            "--export.user_vectors=false",
            "--pipeline.methods=[in_batch]",
            "--features.behaviour.encoder=landmarks",
            "--cluster.quality.enabled=false",
            "--align.epochs=2",
            "--train.epochs=1",
            "--retrain.window_days=28",
            "--retrain.drift.min_rows_ratio=0",
            "--retrain.drift.max_rows_ratio=100",
            "--retrain.drift.max_new_users=1",
            # The gates themselves are tested apart, on models that are made to fail them.
            "--retrain.gate.min_users=5",
            "--retrain.gate.margin=1",
            "--retrain.gate.slice_min_users=100000",
            "--retrain.gate.min_over_popularity=0",
        ]

    def put(self, day: datetime.date, first: bool = False) -> None:
        """The file of a day; with `first`, of all days up to it."""
        days = pc.floor(pc.divide(pc.cast(self.rows["timestamp"], pa.float64()), 86_400.0))
        number = (day - datetime.date(1970, 1, 1)).days
        chosen = pc.less_equal(days, number) if first else pc.equal(days, number)
        pq.write_table(self.rows.filter(chosen), self.raw / f"{day}.parquet")

    def retrain(self, day: datetime.date, *more: str) -> subprocess.CompletedProcess[str]:
        """One night, to its end."""
        return run_job("retrain", "--as-of", str(day), *self.arguments, *more)

    def command(self, day: datetime.date) -> list[str]:
        return [sys.executable, str(ROOT / "jobs" / "retrain.py"), "--as-of", str(day), *self.arguments]

    def report(self, day: datetime.date, name: str = "report") -> dict[str, Any] | None:
        found = list((self.work / "retrain").glob(f"{day}-*/{name}.json"))
        return json.loads(found[0].read_text()) if found else None

    def aliases(self) -> dict[str, str]:
        return aliases(MlflowClient(f"sqlite:///{self.work}/mlflow.db"), NAME)


def kill_when(command: list[str], half_way: Callable[[], bool], seconds: float = 200) -> None:
    """Start a process group and kill it outright as soon as `half_way` holds."""
    with subprocess.Popen(
        command, cwd=ROOT, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        deadline = time.monotonic() + seconds
        try:
            while not half_way():
                assert process.poll() is None, process.stdout.read() if process.stdout else ""
                assert time.monotonic() < deadline
                time.sleep(0.02)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def shop(retail_slice: Path, tmp_path_factory: pytest.TempPathFactory, new_store: Callable[[Path], str]) -> Shop:
    """After its first night, which spark-submit ran."""
    folder = tmp_path_factory.mktemp("shop")
    shop = Shop(retail_slice, folder, pq.read_table(retail_slice.parent / "interactions.parquet"))
    new_store(shop.work)
    shop.put(EVE, first=True)
    submit = [str(Path(sys.executable).with_name("spark-submit")), "--master", "local[2]", "--driver-memory", "2g"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    done = subprocess.run(
        [*submit, *shop.command(EVE)[1:]], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=280
    )
    succeeded(done)
    return shop


def test_the_first_night_publishes_under_spark_submit_and_is_done_once(shop: Shop) -> None:
    report = shop.report(EVE)
    assert report is not None
    assert (report["outcome"], report["mode"], report["champion"]) == ("published", "full", "1")
    assert shop.aliases() == {"challenger": "1", CHAMPION: "1"}
    again = succeeded(shop.retrain(EVE))
    assert "nothing to do, this as-of day and configuration ended before: published" in again
    assert shop.aliases() == {"challenger": "1", CHAMPION: "1"}


def test_a_day_without_a_file_and_a_corrupt_one_are_refused_and_nothing_changes(shop: Shop) -> None:
    missing = shop.retrain(DAY)
    assert missing.returncode == 3
    assert f"interactions: no row of Wednesday {DAY}" in missing.stderr
    (shop.raw / f"{DAY}.parquet").write_bytes(b"PAR1 cut short")
    corrupt = shop.retrain(DAY)
    assert corrupt.returncode == 3
    assert f"{DAY}.parquet: it is corrupt" in corrupt.stderr
    again = shop.retrain(DAY)
    assert again.returncode == 3
    assert "ended before: data refused" in again.stdout
    report = shop.report(DAY)
    assert report is not None
    assert (report["outcome"], report["exit_code"], report["champion"]) == ("data refused", 3, "1")
    assert shop.aliases() == {"challenger": "1", CHAMPION: "1"}


def test_a_night_that_is_killed_in_prepare_leaves_the_champion(shop: Shop) -> None:
    shop.put(DAY)
    kill_when(shop.command(DAY), lambda: any((shop.work / "prepare").glob("*/attempt-*/interactions/*.parquet")) and _new(shop, "prepare"))
    assert shop.aliases()[CHAMPION] == "1"


def test_the_same_night_killed_again_in_training_leaves_the_champion(shop: Shop) -> None:
    kill_when(shop.command(DAY), lambda: len(list((shop.work / "train").glob("*/scratch"))) == 2)
    assert shop.aliases()[CHAMPION] == "1"


def test_killed_once_more_before_the_last_alias_the_next_run_finds_all_stages_done_and_publishes(shop: Shop) -> None:
    last = [sys.executable, "-c", KILLED_AT_THE_LAST_ALIAS, "--as-of", str(DAY), *shop.arguments]
    done = subprocess.run(last, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    assert done.stdout.count("up to date") >= 3, done.stdout
    assert shop.aliases() == {"challenger": "2", "previous": "1", CHAMPION: "1"}
    assert (shop.report(DAY) or {}).get("outcome") == "data refused"
    finished = succeeded(shop.retrain(DAY))
    assert finished.count("up to date") == 7
    report = shop.report(DAY)
    assert report is not None
    assert (report["outcome"], report["champion_before"], report["champion"]) == ("published", "1", "2")
    assert (report["mode"], report["base"]["version"]) == ("incremental", "1")
    figures = Bundle.open(report["bundles"]["prepare"]).figures
    # The rows before the two late days come from the log of the first night.
    assert figures["interactions.read"] < figures["interactions.rows"] / 10
    assert shop.aliases() == {"challenger": "2", "previous": "1", CHAMPION: "2"}


def _new(shop: Shop, stage: str) -> bool:
    return len([path for path in (shop.work / stage).iterdir() if path.is_dir()]) == 2


def test_rollback_brings_the_eve_back_and_says_so(shop: Shop) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "esans.cli", "rollback", *shop.arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert succeeded(done).strip().endswith(f"models:/{NAME}@champion is version 1, as of {EVE}; version 2 is no longer served.")
    assert shop.aliases()[CHAMPION] == "1"
