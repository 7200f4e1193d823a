"""Options of Spark's JVM in tests: of the many that tests start, each lives for seconds and would load the same classes anew.

The classes lie ready in an archive (JEP 350), which halves the processor time of a start. It is made once in build/, by the first test
that needs it; where it can't be made, tests run without.
"""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path

import pyspark

from esans.environment import require_java

BUILD = Path(__file__).resolve().parents[1] / "build"
QUICK = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
SECONDS = 240


@cache
def quick_java() -> str:
    """Options for JVMs that end after seconds: the quick compiler, one thread for garbage, and the archive of classes."""
    java = require_java() / "bin" / "java"
    version = subprocess.run([java, "-version"], capture_output=True, text=True, check=True).stderr
    name = hashlib.sha256("\n".join((version, pyspark.__file__, pyspark.__version__, QUICK)).encode()).hexdigest()[:16]
    archive = BUILD / f"spark-{name}.jsa"
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "spark-jsa.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists():
            _make(archive)
    # Spark splits options at spaces.
    return f"{QUICK} -XX:SharedArchiveFile={archive}" if archive.stat().st_size and " " not in str(archive) else QUICK


def _make(archive: Path) -> None:
    """Write the archive, or an empty file where this JVM makes none."""
    part = archive.with_suffix(".part")
    command = [sys.executable, "-m", "tests.jvm", str(part)]
    made = subprocess.run(command, cwd=BUILD.parent, capture_output=True, text=True, timeout=SECONDS, check=False)
    if made.returncode or not part.exists():
        warnings.warn(f"tests start Spark without an archive of classes: {made.stderr[-2000:]}", stacklevel=2)
        part.write_bytes(b"")
    part.rename(archive)


def _run(archive: str) -> None:
    """What most stages do of Spark, so that the classes of it are in the archive, which the JVM writes when it ends."""
    import tempfile

    from pyspark.sql import Window
    from pyspark.sql import functions as F

    from esans.spark import SparkConfig, open_session

    options = f"{QUICK} -XX:ArchiveClassesAtExit={archive}"
    config = SparkConfig(master="local[2]", driver_memory="1g", shuffle_partitions=2, java_options=options)
    spark = open_session(config, "archive of classes")
    with tempfile.TemporaryDirectory() as folder:
        spark.range(1000).select((F.col("id") % 7).alias("key"), F.col("id").alias("value")).write.parquet(f"{folder}/rows")
        rows = spark.read.parquet(f"{folder}/rows")
        last = F.row_number().over(Window.partitionBy("key").orderBy(F.desc("value")))
        sums = rows.groupBy("key").agg(F.sum("value"), F.collect_list("value").alias("values"))
        found = rows.withColumn("last", last).join(sums, "key").orderBy("key")
        found.mapInArrow(lambda batches: batches, found.schema).write.parquet(f"{folder}/found")
        spark.createDataFrame(spark.read.parquet(f"{folder}/found").toPandas()[["key", "value"]]).count()
    gateway = spark.sparkContext._gateway
    spark.stop()
    gateway.shutdown()
    gateway.proc.stdin.close()
    gateway.proc.wait()


if __name__ == "__main__":
    _run(sys.argv[1])
