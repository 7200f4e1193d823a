"""A real MLflow server is killed while a run logs, and started again: everything arrives, in order."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from benchmarks.processes import free_port
from esans.delivery import deliver_left
from esans.outbox import root_of
from esans.tracking import Run, TrackingConfig, start_run
from tests.integration.processes import mlflow_service


def log(run: Run, steps: range) -> None:
    for step in steps:
        run.metrics({"loss": 1 / (step + 1), "recall@50": float("nan")}, step)


def test_a_run_outlives_the_death_of_its_server(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    port = free_port()
    url, client = f"http://127.0.0.1:{port}", MlflowClient(f"http://127.0.0.1:{port}")
    config = TrackingConfig(uri=url, system_metrics=False, deliver_seconds=120)
    with ExitStack() as servers:
        server = servers.enter_context(mlflow_service(tmp_path, empty_store, port))
        with start_run(config, str(tmp_path), "train") as run:
            log(run, range(50))
            while len(client.get_metric_history(run.run_id, "loss")) < 50:
                time.sleep(0.1)
            server.kill()
            log(run, range(50, 1500))
            run.params({"late": "yes"})
            run.figure(Figure(), "plots/curve.png")
            said = ""
            while "does not answer" not in said:
                time.sleep(0.1)
                said += capsys.readouterr().out
            # As a restarted worker writes to a run that exists: nothing is asked of the server.
            worker = Run(run.run_id, url, str(tmp_path), deliver_seconds=0.0)
            worker.metrics({"validation": 0.5}, 7)
            worker.close()
            assert "1 entries of run" in capsys.readouterr().out
            servers.enter_context(mlflow_service(tmp_path, empty_store, port))
        assert deliver_left(root_of(str(tmp_path))) == []
        history = client.get_metric_history(run.run_id, "loss")
        assert [found.step for found in history] == list(range(1500))
        assert [found.timestamp for found in history] == sorted(found.timestamp for found in history)
        assert len(client.get_metric_history(run.run_id, "recall_at_50")) == 1500
        kept = client.get_run(run.run_id)
        assert kept.info.status == "FINISHED"
        assert kept.data.params == {"late": "yes"}
        assert kept.data.metrics["validation"] == 0.5
        assert [found.path for found in client.list_artifacts(run.run_id, "plots")] == ["plots/curve.png"]
    assert not root_of(str(tmp_path)).exists()
