"""MLflow: every stage and method is a run, children of one pipeline run.

Only the stage's process and, in training, its first rank write to it (contract 7), each through an outbox: a call returns when the
entry is on this host's disk, and a thread delivers it (esans/delivery.py). So MLflow must be there when a run is created; after
that it may be away, and nothing waits for it until the end.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from esans.config import NonNegativeFloat, Runtime, config
from esans.delivery import Outbox, connect, deliver_left
from esans.errors import EsansError
from esans.outbox import Box, root_of
from esans.redaction import keep_tracking_uri, redact, redact_values, resolve
from esans.uri import canonical, join

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
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
    deliver_seconds: Annotated[NonNegativeFloat, Runtime] = 30.0
    """Seconds that the end of a run waits for an MLflow that is away. What is not delivered by then stays on disk, in `undelivered`
    of the work directory; the next run there delivers it, or `esans deliver WORK_DIR`."""


class TrackingError(EsansError):
    """No run could be created: MLflow does not answer, or not as it should."""


def resolve_uri(config: TrackingConfig, work_dir: str) -> str:
    """The tracking URI in force; an unreachable server shows itself when a run is created.

    Raises:
        ConfigError: `tracking.uri` names a variable that is not set.
    """
    given = resolve(config.uri, "tracking.uri") if config.uri else os.environ.get("MLFLOW_TRACKING_URI")
    if given:
        keep_tracking_uri(given)
        return given
    root = canonical(work_dir)
    if not root.startswith("file://"):
        return "sqlite:///mlflow.db"
    return "sqlite:///" + join(root.removeprefix("file://"), "mlflow.db")


class Run:
    """One MLflow run, as one process writes to it: a call returns at once, and what it was given arrives later, in order.

    Args:
        run_id: of a run that exists; nothing is asked of the server here.
        tracking_uri: its server or database.
        work_dir: whose `undelivered` folder holds what waits.
        deliver_seconds: how long `close` waits.
    """

    def __init__(self, run_id: str, tracking_uri: str, work_dir: str, deliver_seconds: float) -> None:
        self.run_id, self.tracking_uri, self.deliver_seconds = run_id, tracking_uri, deliver_seconds
        self._outbox = Outbox(Box.claim(root_of(work_dir), run_id, tracking_uri))

    def params(self, values: Mapping[str, Any]) -> None:
        """Log flat parameters; a value longer than MLflow takes is cut with a mark."""
        texts = {name: str(value) for name, value in redact_values(values).items()}
        cut = {name: text if len(text) <= _LONGEST_PARAM else text[: _LONGEST_PARAM - 4] + " ..." for name, text in texts.items()}
        self._outbox.append({"params": cut})

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log metrics at one step, under the time of this call."""
        # MLflow allows no '@' in metric names.
        named = {name.replace("@", "_at_"): float(value) for name, value in values.items()}
        self._outbox.append({"metrics": named, "step": step, "time": _milliseconds()})

    def tag(self, **tags: str) -> None:
        """Set tags."""
        self._outbox.append({"tags": {name: redact(text) for name, text in tags.items()}})

    def figure(self, figure: Figure, path: str) -> None:
        """Keep a matplotlib figure as artifact `path`."""
        self._outbox.artifact(path, figure.savefig)

    def text(self, text: str, path: str) -> None:
        """Keep a text as artifact `path`."""
        self._outbox.artifact(path, lambda file: file.write_text(redact(text), encoding="utf-8"))

    def end(self, status: str) -> None:
        """Close the run as FINISHED, FAILED or KILLED, once all that was logged before has arrived."""
        self._outbox.append({"end": status, "time": _milliseconds()})

    def close(self) -> None:
        """Deliver what waits, within `deliver_seconds`; the rest stays on disk, with a message that says where."""
        self._outbox.close(self.deliver_seconds)


def _milliseconds() -> int:
    return int(time.time() * 1000)


@contextmanager
def start_run(config: TrackingConfig, work_dir: str, name: str, parent_id: str | None = None) -> Iterator[Run]:
    """Open a run, log system metrics beside it, and close it as FINISHED, FAILED or KILLED.

    Raises:
        TrackingError: the run could not be created. Under a parent, whose server did answer, this is tried for `deliver_seconds`.
    """
    import logging

    import mlflow

    # Its notes on every start and stop of a monitor would drown the progress of the stages.
    for noisy in ("mlflow.system_metrics", "mlflow.store.db", "mlflow.pyfunc", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    uri = resolve_uri(config, work_dir)
    chosen = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    # MLflow writes the URI into the environment too, where a later run over another work directory would take it for the user's choice.
    if chosen is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    else:
        os.environ["MLFLOW_TRACKING_URI"] = chosen
    tags = {"mlflow.runName": name} | ({"mlflow.parentRunId": parent_id} if parent_id else {})
    run_id = _create(uri, config, work_dir, tags, config.deliver_seconds if parent_id else 0.0)
    # What earlier runs could not deliver: the server does answer now.
    threading.Thread(target=deliver_left, args=(root_of(work_dir),), daemon=True).start()
    run = Run(run_id, uri, work_dir, config.deliver_seconds)
    monitor = _system_metrics(run) if config.system_metrics else None
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
        run.close()


def _create(uri: str, config: TrackingConfig, work_dir: str, tags: Mapping[str, str], patience: float) -> str:
    """The id of a new run in the experiment of the config."""
    deadline = time.monotonic() + patience
    while True:
        try:
            with _short_timeout():
                client = connect(uri)
                experiment = client.get_experiment_by_name(config.experiment)
                if experiment is None:
                    local = uri.startswith("sqlite:") and canonical(work_dir).startswith("file://")
                    location = join(canonical(work_dir), "mlartifacts") if local else None
                    experiment_id = client.create_experiment(config.experiment, artifact_location=location)
                else:
                    experiment_id = experiment.experiment_id
                return str(client.create_run(experiment_id, tags=tags, run_name=tags["mlflow.runName"]).info.run_id)
        except Exception as error:
            if time.monotonic() >= deadline:
                raise TrackingError(
                    f"MLflow at {uri} creates no run: {error}\n"
                    "  Start the server, or name another with --tracking.uri or MLFLOW_TRACKING_URI; "
                    "without either, runs are kept in SQLite in the work directory."
                ) from error
            time.sleep(1.0)


@contextmanager
def _short_timeout() -> Iterator[None]:
    """MLflow's calls give up after ten seconds without an answer, not after two minutes, unless the user said how long."""
    if _TIMEOUT in os.environ:
        yield
        return
    os.environ[_TIMEOUT] = "10"
    try:
        yield
    finally:
        os.environ.pop(_TIMEOUT, None)


def _system_metrics(run: Run) -> Any:
    """MLflow's monitor of the machine, started, which logs through `run`.

    As it comes it asks the server at every sample, and stops for good where that did not answer once.
    """
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    class Monitor(SystemMetricsMonitor):
        def monitor(self) -> None:
            """Sample, and log the means, until `finish`."""
            while not self._shutdown_event.is_set():
                for _ in range(self.samples_before_logging):
                    self.collect_metrics()
                    self._shutdown_event.wait(self.sampling_interval)
                if not self._shutdown_event.is_set():
                    self.publish_metrics(self.aggregate_metrics())

        def publish_metrics(self, metrics: Mapping[str, float]) -> None:
            """Log means of the samples."""
            run.metrics({f"system/{name}": value for name, value in metrics.items()}, self._logging_step)
            self._logging_step += 1
            for monitor in self.monitors:
                monitor.clear_metrics()

        def finish(self) -> None:
            """Stop sampling; nothing is logged after this."""
            self._shutdown_event.set()
            self._process.join()

    monitor = Monitor(run.run_id, sampling_interval=5, samples_before_logging=2, tracking_uri=run.tracking_uri)
    monitor.start()
    return monitor
