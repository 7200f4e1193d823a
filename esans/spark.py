"""The Spark session that every stage shares."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import fsspec

from esans.config import PositiveInt, Runtime, config
from esans.redaction import resolve
from esans.uri import is_local

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_SAMPLE_STEPS = 1_000_000
_UNREADABLE = ("CANNOT_READ_FILE_FOOTER", "FAILED_READ_FILE", "is not a Parquet file", "Could not read footer")
_FILE = re.compile(r"(?:file|path)[: ]+[\"'`]?((?:[a-z0-9]+:/|/)[^\s\"'`]+)", re.IGNORECASE)


@config
class SparkConfig:
    """How Spark runs. Nothing here changes what a stage writes."""

    master: Annotated[str, Runtime] = "local[*]"
    """Spark master; ignored under spark-submit, which brings its own."""
    driver_memory: Annotated[str, Runtime] = "3g"
    """Heap of the driver (of the whole of Spark in local mode); ignored under spark-submit."""
    java_options: Annotated[str, Runtime] = ""
    """Further JVM options of the driver, such as -XX:TieredStopAtLevel=1 for runs of a few minutes."""
    shuffle_partitions: Annotated[PositiveInt, Runtime] = 8
    """Partitions after a shuffle before adaptive execution joins the small ones."""
    event_log: Annotated[Literal["auto", "none"], Runtime] = "auto"
    """What Spark did, for its history server: `auto` keeps it in `spark-events` of a local work directory, compressed, and names it in
    the tag `spark_event_log` of each run; `none` keeps nothing. Under spark-submit its own spark.eventLog.* settings count."""
    conf: Annotated[dict[str, str], Runtime] = dataclasses.field(default_factory=dict)
    """Any further Spark settings, as name: value. `${env:NAME}` in a value is read from the environment, for keys and passwords."""


def unreadable_file(error: BaseException) -> str | None:
    """The file that Spark could not read, where that is what an error says ("one of its files" where Spark names none); else None."""
    text = str(error)
    if not any(mark in text for mark in _UNREADABLE):
        return None
    found = _FILE.search(text)
    return found.group(1).rstrip(".,:;)") if found else "one of its files"


def sampled(rows: DataFrame, key: str, share: float, seed: int) -> DataFrame:
    """About a `share` of the rows, by a hash of the column `key`: the same rows however Spark splits the data. All from 1 on."""
    from pyspark.sql import functions as F

    if share >= 1:
        return rows
    return rows.where(F.pmod(F.xxhash64(key, F.lit(seed)), F.lit(_SAMPLE_STEPS)) < max(int(share * _SAMPLE_STEPS), 1))


def under_spark_submit() -> bool:
    """Whether spark-submit started this process and so decides master and memory."""
    return "PYSPARK_GATEWAY_PORT" in os.environ


def open_session(config: SparkConfig, app_name: str, work_dir: str | None = None) -> SparkSession:
    """The running session, or a new one. UTC, Arrow transfer and adaptive execution are always on.

    Args:
        config: how Spark runs.
        app_name: as its pages show it.
        work_dir: where a new session keeps its event log, under `config.event_log`; None keeps none.
    """
    from pyspark.sql import SparkSession

    from esans.environment import require_java

    builder = SparkSession.builder.appName(app_name)
    if not under_spark_submit() and SparkSession.getActiveSession() is None:
        require_java()
        # Workers must run the interpreter that holds the pinned packages, whatever `python3` on the PATH is.
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        builder = (
            builder.master(config.master)
            .config("spark.driver.memory", config.driver_memory)
            .config("spark.ui.enabled", "false")
            .config("spark.ui.showConsoleProgress", "false")
            .config("spark.driver.bindAddress", "127.0.0.1" if config.master.startswith("local") else "0.0.0.0")
        )
        quiet = Path(__file__).with_name("log4j2.properties")
        builder = builder.config("spark.driver.extraJavaOptions", f"-Dlog4j2.configurationFile={quiet.as_uri()} {config.java_options}")
        if config.master.startswith("local"):
            # Read by Spark's launch scripts, before any setting is.
            os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
            builder = builder.config("spark.driver.host", "127.0.0.1")
        for name, value in _event_log(config, work_dir).items():
            builder = builder.config(name, value)
    fixed = {
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.shuffle.partitions": str(config.shuffle_partitions),
        "spark.sql.parquet.compression.codec": "zstd",
        # What Spark itself writes (event log, UI, plans) holds no password either.
        "spark.redaction.regex": "(?i)secret|passw|token|credential|webhook|access[.]?key|account[.]?key|://[^/@\\s]*:[^/@\\s]+@",
        "spark.redaction.string.regex": "://[^/@\\s]*:[^/@\\s]+@|(?i)(?:password|secret|token)=[^&;\\s]+",
    }
    for name, value in {**fixed, **config.conf}.items():
        builder = builder.config(name, resolve(value, f"spark.conf.{name}"))
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


def _event_log(config: SparkConfig, work_dir: str | None) -> dict[str, str]:
    filesystem, path = fsspec.core.url_to_fs(work_dir or "memory://")
    if config.event_log == "none" or not is_local(filesystem):
        return {}
    folder = Path(path) / "spark-events"
    # Spark does not make it.
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": folder.as_uri(),
        "spark.eventLog.compress": "true",
        # One file an application, so that a tag can name it.
        "spark.eventLog.rolling.enabled": "false",
    }


def event_log_of(session: SparkSession) -> str | None:
    """URI of the session's event log once the session has ended (`.inprogress` follows the name until then), or None without one."""
    conf = session.sparkContext.getConf()
    if conf.get("spark.eventLog.enabled", "false") != "true":
        return None
    name = session.sparkContext.applicationId
    if conf.get("spark.eventLog.rolling.enabled", "true") == "true":
        name = f"eventlog_v2_{name}"
    elif conf.get("spark.eventLog.compress", "false") == "true":
        name += "." + str(conf.get("spark.eventLog.compression.codec", "zstd"))
    return f"{str(conf.get('spark.eventLog.dir', '/tmp/spark-events')).rstrip('/')}/{name}"
