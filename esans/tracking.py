"""MLflow: every stage and method is a run, children of one pipeline run; only one process writes to it (contract 7)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from esans.config import Runtime, config

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PARAMS_PER_CALL = 100  # the limit of MLflow's batch endpoint
_LONGEST_PARAM = 6000  # characters; longer values are refused by MLflow


@config
class TrackingConfig:
    """Where runs are remembered. Nothing here changes what a stage writes."""

    uri: Annotated[str | None, Runtime] = None
    """MLflow tracking URI; by default MLFLOW_TRACKING_URI, else SQLite in the work directory."""
    experiment: Annotated[str, Runtime] = "esans"
    """MLflow experiment that holds the runs."""
    system_metrics: Annotated[bool, Runtime] = True
    """Log CPU, memory and, where there are any, GPU figures of every run."""


def resolve_uri(config: TrackingConfig, work_dir: str) -> str:
    """The tracking URI in force. Raises nothing: an unreachable server shows itself at the first call."""
    from esans.uri import canonical, join

    given = config.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if given:
        return given
    root = canonical(work_dir)
    if not root.startswith("file://"):
        return "sqlite:///mlflow.db"
    return "sqlite:///" + join(root.removeprefix("file://"), "mlflow.db")


class Run:
    """One MLflow run, written to by one process."""

    def __init__(self, client: Any, run_id: str, tracking_uri: str, experiment_id: str) -> None:
        self._client = client
        self.run_id = run_id
        self.tracking_uri = tracking_uri
        self.experiment_id = experiment_id

    @classmethod
    def attach(cls, tracking_uri: str, run_id: str) -> Run:
        """The run `run_id`, from another process than the one that started it."""
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri)
        return cls(client, run_id, tracking_uri, client.get_run(run_id).info.experiment_id)

    def params(self, values: Mapping[str, Any]) -> None:
        """Log flat parameters in batches; a value longer than MLflow takes is cut with a mark."""
        from mlflow.entities import Param

        entries = []
        for name, value in values.items():
            text = str(value)
            entries.append(Param(name, text if len(text) <= _LONGEST_PARAM else text[: _LONGEST_PARAM - 4] + " ..."))
        for start in range(0, len(entries), _PARAMS_PER_CALL):
            self._client.log_batch(self.run_id, params=entries[start : start + _PARAMS_PER_CALL])

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log metrics at one step."""
        import time

        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        entries = [Metric(_metric_name(name), float(value), now, step) for name, value in values.items()]
        for start in range(0, len(entries), _PARAMS_PER_CALL):
            self._client.log_batch(self.run_id, metrics=entries[start : start + _PARAMS_PER_CALL])

    def tag(self, **tags: str) -> None:
        """Set tags."""
        for name, value in tags.items():
            self._client.set_tag(self.run_id, name, value)

    def figure(self, figure: Figure, path: str) -> None:
        """Keep a matplotlib figure as artifact `path`."""
        self._client.log_figure(self.run_id, figure, path)

    def text(self, text: str, path: str) -> None:
        """Keep a text as artifact `path`."""
        self._client.log_text(self.run_id, text, path)

    def end(self, status: str) -> None:
        """Close the run as FINISHED, FAILED or KILLED."""
        self._client.set_terminated(self.run_id, status)


def _metric_name(name: str) -> str:
    # MLflow allows no '@' in metric names.
    return name.replace("@", "_at_")


@contextmanager
def start_run(config: TrackingConfig, work_dir: str, name: str, parent_id: str | None = None) -> Iterator[Run]:
    """Open a run, log system metrics beside it, and close it as FINISHED, FAILED or KILLED."""
    import logging

    import mlflow
    from mlflow import MlflowClient
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    from esans.uri import canonical, join

    # Its notes on every start and stop of a monitor would drown the progress of the stages.
    for noisy in ("mlflow.system_metrics", "mlflow.store.db", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    uri = resolve_uri(config, work_dir)
    chosen = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    # MLflow writes the URI into the environment too, where a later run over another work directory would take it for the user's choice.
    if chosen is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    else:
        os.environ["MLFLOW_TRACKING_URI"] = chosen
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(config.experiment)
    if experiment is None:
        local = uri.startswith("sqlite:") and canonical(work_dir).startswith("file://")
        location = join(canonical(work_dir), "mlartifacts") if local else None
        experiment = client.get_experiment(client.create_experiment(config.experiment, artifact_location=location))
    tags = {"mlflow.runName": name}
    if parent_id:
        tags["mlflow.parentRunId"] = parent_id
    created = client.create_run(experiment.experiment_id, tags=tags, run_name=name)
    run = Run(client, created.info.run_id, uri, experiment.experiment_id)
    monitor = None
    if config.system_metrics:
        monitor = SystemMetricsMonitor(run.run_id, sampling_interval=5, samples_before_logging=2)
        monitor.start()
    status = "FAILED"
    try:
        yield run
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        if monitor is not None:
            monitor.finish()
        run.end(status)
