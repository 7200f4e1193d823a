"""Starting processes on Spark's executors: which GPUs they take, and what they can import."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

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
