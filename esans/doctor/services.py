"""What the stages talk to: MLflow and Spark."""

from __future__ import annotations

import json
import os
import sqlite3
import time
import urllib.error
import urllib.request
from base64 import b64encode
from pathlib import Path
from urllib.parse import unquote, urlsplit

from esans.doctor.line import Line, fail, ok, warn
from esans.errors import EsansError
from esans.redaction import redact
from esans.spark import SparkConfig, open_session
from esans.tracking import TrackingConfig, resolve_uri

_SECONDS = 5


def mlflow(config: TrackingConfig, work_dir: str) -> Line:
    """Whether the store of the runs answers, and whether its version fits."""
    from mlflow.version import VERSION

    try:
        uri = resolve_uri(config, work_dir)
    except EsansError as error:
        return fail("MLflow", str(error), "Export the variable, or set another tracking.uri.")
    shown = redact(uri)
    if uri.startswith(("http://", "https://")):
        return _server(uri, shown, VERSION)
    if uri.startswith("sqlite:///"):
        return _sqlite(Path(uri.removeprefix("sqlite:///")), shown, VERSION)
    if "://" in uri and not uri.startswith("file:"):
        return _database(uri, shown, VERSION)
    return warn(
        "MLflow", f"{shown} is a store of plain files (client {VERSION})", "MLflow keeps no models there: take sqlite:///FILE or a server."
    )


def _server(uri: str, shown: str, client: str) -> Line:
    try:
        _get(f"{uri.rstrip('/')}/health")
        answer = _get(f"{uri.rstrip('/')}/version").strip().strip('"')
        # The version is open to all; the API asks who it is.
        _get(f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search?max_results=1")
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            cure = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."
            return fail("MLflow", f"{shown} asks for a login ({error.code})", cure)
        return fail("MLflow", f"{shown} answers {error.code} {error.reason}", "Check that this is an MLflow server, and its log.")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return fail("MLflow", f"{shown} does not answer: {reason}", "Start the server, or correct tracking.uri or MLFLOW_TRACKING_URI.")
    if answer.split(".")[:2] != client.split(".")[:2]:
        return warn("MLflow", f"{shown} is version {answer}, the client {client}", "Take the same minor version on both sides.")
    return ok("MLflow", f"{shown} answers, version {answer}")


def _get(url: str) -> str:
    parts = urlsplit(url)
    user, password = (
        parts.username or os.environ.get("MLFLOW_TRACKING_USERNAME"),
        parts.password or os.environ.get("MLFLOW_TRACKING_PASSWORD"),
    )
    host = parts.netloc.rpartition("@")[2]
    request = urllib.request.Request(parts._replace(netloc=host).geturl())
    if user and password:
        request.add_header("Authorization", f"Basic {b64encode(f'{unquote(user)}:{unquote(password)}'.encode()).decode()}")
    elif token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
        return str(answer.read().decode())


def _sqlite(path: Path, shown: str, client: str) -> Line:
    if not path.exists():
        return ok("MLflow", f"{shown} is made by the first run (client {client})")
    try:
        with sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=_SECONDS) as store:
            (runs,) = store.execute("select count(*) from runs").fetchone()
            store.execute("begin immediate")
            store.rollback()
    except sqlite3.Error as error:
        return fail("MLflow", f"{shown}: {error}", "End the process that locks it, change its rights, or move the file away.")
    return ok("MLflow", f"{shown}, {runs:,} runs (client {client})")


def _database(uri: str, shown: str, client: str) -> Line:
    from sqlalchemy import create_engine, text

    try:
        with create_engine(uri, connect_args={"connect_timeout": _SECONDS}).connect() as connection:
            runs = connection.execute(text("select count(*) from runs")).scalar()
    except ImportError as error:
        return fail("MLflow", f"{shown}: {error}", "Install the driver of that database (psycopg2-binary for postgresql).")
    except Exception as error:
        found = redact(str(error).strip().splitlines()[0])
        return fail("MLflow", f"{shown}: {found}", "Check the database, the login, and that `mlflow db upgrade` has made its tables.")
    return ok("MLflow", f"{shown}, {runs:,} runs (client {client})")


def spark(config: SparkConfig, start: bool) -> Line:
    """The version of Spark; with `start`, whether a session starts under this configuration and counts.

    Args:
        config: of the configuration.
        start: takes seconds, and on a cluster what its queue takes.
    """
    import pyspark

    home = os.environ.get("SPARK_HOME")
    if home and (release := Path(home) / "RELEASE").is_file() and f"Spark {pyspark.__version__}" not in release.read_text():
        found = f"pyspark {pyspark.__version__}, but SPARK_HOME={home} holds {release.read_text().split(' built')[0]}"
        return fail("Spark", found, "Unset SPARK_HOME, or install the same version there.")
    if not start:
        return ok("Spark", f"pyspark {pyspark.__version__}; `esans doctor --spark` starts a session")
    began = time.monotonic()
    try:
        session = open_session(config, "esans-doctor")
        counted = session.range(1000).repartition(2).count()
        found, master = session.version, session.sparkContext.master
        session.stop()
    except Exception as error:
        first = redact(next(iter(str(error).strip().splitlines()), type(error).__name__))
        return fail(
            "Spark",
            f"no session under {config.master}: {first}",
            "Check spark.master, the network to it, and its log; and the line on Java.",
        )
    return ok("Spark", f"{found} under {master} counted {counted:,} rows, {time.monotonic() - began:.1f} s from start to end")


def as_json(lines: list[Line]) -> str:
    """The report for machines."""
    return json.dumps({"ok": all(line.state != "fail" for line in lines), "lines": [vars(line) for line in lines]}, indent=1)
