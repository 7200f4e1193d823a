"""What a step of Spark shows while it runs."""

from __future__ import annotations

import time
from types import SimpleNamespace

from esans import progress


def test_a_step_that_counts_items_shows_how_many_are_done_and_how_fast(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_LOG_INTERVAL", 0.0)
    monkeypatch.setattr(progress, "console", progress.Console(highlight=False, soft_wrap=True))
    tracker = SimpleNamespace(getActiveStageIds=list)
    spark = SimpleNamespace(sparkContext=SimpleNamespace(statusTracker=lambda: tracker))
    with progress.spark_step(spark, "text vectors") as step:
        step.count(10, lambda: 4, "items")
        time.sleep(1.2)
    shown = capsys.readouterr().out
    assert "  text vectors: 4/10 items after " in shown
    assert " items/s\n" in shown
