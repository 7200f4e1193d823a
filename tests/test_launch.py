"""Starting processes on Spark's executors: which GPUs they take, and what they can import."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from esans import elastic
from esans.config import build
from esans.errors import ConfigError
from esans.launch import LaunchConfig, _assigned_by_spark, _show_py_files


def session(**conf: str) -> Any:
    """What the launcher asks of a session: its settings and the environment of its Python workers."""
    named = {name.replace("__", "."): value for name, value in conf.items()}
    settings = SimpleNamespace(get=lambda name, default=None: named.get(name, default))
    return SimpleNamespace(sparkContext=SimpleNamespace(getConf=lambda: settings, environment={}))


def launch(device: str) -> LaunchConfig:
    return build(LaunchConfig, {"mode": "spark", "processes": 2, "device": device})


@pytest.mark.parametrize(
    ("device", "amount", "taken"),
    [("auto", "1", True), ("cuda", "1", True), ("auto", "0", False), ("cpu", "1", False), ("cpu", "0.25", False)],
)
def test_processes_take_gpus_where_spark_assigns_one_a_task_and_the_config_lets_them(device: str, amount: str, taken: bool) -> None:
    assert _assigned_by_spark(launch(device), session(spark__task__resource__gpu__amount=amount), "training") is taken


@pytest.mark.parametrize(("device", "amount"), [("cuda", "0"), ("auto", "0.25"), ("cuda", "2")])
def test_a_gpu_that_is_missing_shared_or_doubled_is_refused_with_the_setting_to_change(device: str, amount: str) -> None:
    with pytest.raises(ConfigError, match=rf"spark\.task\.resource\.gpu\.amount = {amount}: training .* needs one GPU a process"):
        _assigned_by_spark(launch(device), session(spark__task__resource__gpu__amount=amount), "training")


def test_py_files_are_on_the_path_of_what_tasks_start() -> None:
    spark = session(spark__submit__pyFiles="file:///home/a/esans.zip,hdfs://n/b/own.py,/c/other.py")
    _show_py_files(spark)
    assert spark.sparkContext.environment["PYTHONPATH"] == "esans.zip:."


_DEAF = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
print(worker.pid, file=open(sys.argv[1] + ".part", "w"), flush=True)
import os; os.rename(sys.argv[1] + ".part", sys.argv[1])
worker.wait()
"""


def test_an_agent_that_does_not_end_when_asked_is_ended_with_its_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, signs = tmp_path / "worker", tmp_path / "signs"
    signs.mkdir()
    others = {child.pid for child in psutil.Process().children()}

    def interrupted(seconds: float) -> None:
        if started.exists():
            raise KeyboardInterrupt
        time.sleep(seconds)

    monkeypatch.setattr(elastic, "_AGENT_SECONDS", 0.1)
    monkeypatch.setattr(elastic, "time", SimpleNamespace(sleep=interrupted, monotonic=time.monotonic))
    with pytest.raises(KeyboardInterrupt):
        elastic.supervise([sys.executable, "-c", _DEAF, str(started)], os.environ, signs, 0.2)
    worker = int(started.read_text())
    # Its parent is gone: whoever takes it over may be slow to reap it.
    assert not psutil.pid_exists(worker) or psutil.Process(worker).status() == psutil.STATUS_ZOMBIE
    assert {child.pid for child in psutil.Process().children()} <= others
