"""What all model encoders share: each content is hashed, only new ones are encoded, and each of those once.

    items -> content hash -> hashes without a vector of this encoder in the earlier bundle -> one item each -> worker.py
    table encoded_text / encoded_image: content, encoder, vector or null, status, detail

Nothing the size of the catalogue reaches the driver, and a picture's bytes are moved only when it is encoded.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from esans.bundle import digest
from esans.columns import IMAGE, IMAGE_MODALITY, IMAGE_URI, ITEM_IDX, TEXT_MODALITY
from esans.errors import ConfigError, DataError
from esans.features import pictures
from esans.features.registry import Encoded, Job
from esans.features.source import text_of
from esans.features.vectors import STATUS, VECTOR
from esans.features.worker import CONTENT, DETAIL, HASH_DIGITS, MARK, PAYLOAD, Work, encode_batches, hash_batches
from esans.progress import say

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

ENCODER = "encoder"
# A content is tried again in the next build unless its outcome is final: a store may be back, a bound may be raised.
_FINAL = (pictures.OK, pictures.CORRUPT)
_ENCODED = f"{CONTENT} string, {VECTOR} array<float>, {STATUS} string, {DETAIL} string"
_HASHED = f"{ITEM_IDX} long, {CONTENT} string, {STATUS} string, {DETAIL} string"
# Up to this many new contents, their items are sent to every executor (about 100 bytes each), and what is known is not shuffled.
_BROADCAST = 200_000
# A task below this many rows costs more than the model's start.
_LEAST_ROWS = 256
# Rows that travel to a worker at once: pictures are large.
_ARROW_ROWS = {TEXT_MODALITY: 4_096, IMAGE_MODALITY: 256}
_ROWS_CONF = "spark.sql.execution.arrow.maxRecordsPerBatch"


def encode_texts(items: DataFrame, section: Any, job: Job, module: str, identity: dict[str, Any]) -> Encoded:
    """Vectors of every item's text (or title, where it has none), by the encoder that `module` loads.

    Raises:
        DataError: prepare mapped neither a text nor a title column.
        ConfigError: the model cannot be loaded on an executor, or gives no vectors.
    """
    from pyspark.sql import functions as F

    rows = items.select(ITEM_IDX, text_of(items).alias(PAYLOAD)).where(F.col(PAYLOAD) != "")
    hashed = rows.select(ITEM_IDX, _hash(F.col(PAYLOAD)).alias(CONTENT))
    return _encode(rows, hashed, Work(module, TEXT_MODALITY, section, digest(identity)), job)


def encode_images(section: Any, job: Job, module: str, identity: dict[str, Any]) -> Encoded:
    """Vectors of every picture in the table `images`, by the encoder that `module` loads; broken ones are counted by kind.

    Raises:
        DataError: prepare mapped no image column.
        ConfigError: the model cannot be loaded on an executor, or gives no vectors.
    """
    from pyspark.sql import functions as F

    if job.images is None:
        raise DataError(
            "items: there are no pictures. Map prepare.items.columns.image, or set features.image.encoder to auto, columns or none."
        )
    given = IMAGE if IMAGE in job.images.columns else IMAGE_URI
    rows = job.images.select(ITEM_IDX, F.col(given).alias(PAYLOAD))
    if given == IMAGE_URI and section.unchanged_by == "content":
        hashed = _hash_at_uris(rows, section, job)
    else:
        hashed = rows.select(ITEM_IDX, _hash(F.col(PAYLOAD)).alias(CONTENT))
    return _encode(rows, hashed, Work(module, IMAGE_MODALITY, section, digest(identity)), job)


def _encode(rows: DataFrame, hashed: DataFrame, work: Work, job: Job) -> Encoded:
    """Encode what is new, write the table of contents, and look every item's vector up in it.

    Args:
        rows: item_idx, payload (text, bytes or URI).
        hashed: item_idx, content; null, with status and detail, where it cannot be read.
    """
    from pyspark import StorageLevel
    from pyspark.sql import functions as F

    # Read several times below, and a pass over every picture is dear.
    hashed = hashed.persist(StorageLevel.DISK_ONLY)
    known = _known(work, job)
    contents = hashed.where(F.col(CONTENT).isNotNull()).groupBy(CONTENT).agg(F.min(ITEM_IDX).alias(ITEM_IDX))
    new = contents if known is None else contents.join(known.select(CONTENT), CONTENT, "left_anti")
    new = new.persist(StorageLevel.DISK_ONLY)
    count = new.count()
    payloads = rows.join(F.broadcast(new) if count <= _BROADCAST else new, ITEM_IDX).select(CONTENT, PAYLOAD)
    encoded = _run(payloads, count, work, job)
    if known is not None:
        encoded = encoded.unionByName(known.join(contents.select(CONTENT), CONTENT, "left_semi"))
    started = time.monotonic()
    with _arrow_rows(job.spark, _ARROW_ROWS[work.modality]), readable_errors():
        table = job.out.write(f"encoded_{work.modality}", encoded.withColumn(ENCODER, F.lit(work.identity)))
    figures = _tell(count, table.rows - count, time.monotonic() - started, work.modality, job.spark)
    written = table.spark(job.spark)
    if work.modality == IMAGE_MODALITY:
        figures |= _problems(hashed, written)
    good = written.where(F.col(STATUS) == pictures.OK).select(CONTENT, VECTOR)
    first = good.select(F.size(VECTOR).alias("length")).first()
    return Encoded(hashed.join(good, CONTENT).select(ITEM_IDX, VECTOR), int(first["length"]) if first else 1, figures)


def _known(work: Work, job: Job) -> DataFrame | None:
    """content, vector, status, detail of this very encoder in the earlier bundle."""
    from pyspark.sql import functions as F

    name = f"encoded_{work.modality}"
    if job.previous is None or not job.previous.has(name):
        return None
    rows = job.previous.table(name).spark(job.spark)
    return rows.where((F.col(ENCODER) == work.identity) & F.col(STATUS).isin(*_FINAL)).drop(ENCODER)


def _run(payloads: DataFrame, count: int, work: Work, job: Job) -> DataFrame:
    done = job.spark.sparkContext.accumulator(0)
    job.count(count, lambda: done.value, "items")

    def apply(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return encode_batches(work, batches, done)

    parts = _parts(count, work.section.rows_per_task, job.spark)
    return payloads.repartition(parts, CONTENT).mapInArrow(apply, _ENCODED)


def _hash_at_uris(rows: DataFrame, section: Any, job: Job) -> DataFrame:
    done, count = job.spark.sparkContext.accumulator(0), rows.count()
    job.count(count, lambda: done.value, "pictures read")

    def apply(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return hash_batches(section, batches, done)

    return rows.repartition(_parts(count, section.rows_per_task, job.spark), ITEM_IDX).mapInArrow(apply, _HASHED)


def _parts(count: int, rows_per_task: int, spark: SparkSession) -> int:
    # As many tasks as fill the cores, more where they would grow long, fewer where they would be over before the model is there.
    wanted = max(-(-count // rows_per_task), spark.sparkContext.defaultParallelism)
    return max(min(wanted, -(-count // min(_LEAST_ROWS, rows_per_task))), 1)


def _hash(payload: Column) -> Column:
    from pyspark.sql import functions as F

    return F.substring(F.sha2(payload, 256), 1, HASH_DIGITS)


def _tell(encoded: int, reused: int, seconds: float, modality: str, spark: SparkSession) -> dict[str, float]:
    figures = {f"{modality}.encoded": float(encoded), f"{modality}.reused": float(reused)}
    speed = ""
    if encoded:
        rate = figures[f"{modality}.items_per_second"] = encoded / max(seconds, 1e-9)
        on = "GPU" if float(spark.conf.get("spark.task.resource.gpu.amount", "0") or 0) > 0 else "CPU"
        speed = f" in {seconds:.1f} s ({rate:,.1f} items/s on the {on}, loading included)"
    say(f"  {modality}: {encoded:,} contents encoded{speed}, {reused:,} reused")
    return figures


def _problems(hashed: DataFrame, written: DataFrame) -> dict[str, float]:
    """Items without a picture that can be used, by kind; the first of each kind is said with its reason."""
    from pyspark.sql import functions as F

    found = hashed.join(written.select(CONTENT, F.col(STATUS).alias("outcome"), F.col(DETAIL).alias("why")), CONTENT, "left")
    if STATUS in hashed.columns:
        outcome, why = F.when(F.col(CONTENT).isNull(), F.col(STATUS)).otherwise(F.col("outcome")), F.coalesce("why", DETAIL)
    else:
        outcome, why = F.col("outcome"), F.col("why")
    bad = found.select(ITEM_IDX, outcome.alias("outcome"), why.alias("why")).where(F.col("outcome") != pictures.OK)
    rows = bad.groupBy("outcome").agg(F.count(F.lit(1)).alias("count"), F.min(F.struct(ITEM_IDX, "why")).alias("first")).collect()
    for row in sorted(rows):
        kind, first = row["outcome"].replace("_", " "), row["first"]
        say(f"  image: {row['count']:,} count as missing ({kind}; first: item_idx {first[ITEM_IDX]}, {first['why']})")
    counts = {row["outcome"]: row["count"] for row in rows}
    return {f"image.{kind}": float(counts.get(kind, 0)) for kind in pictures.PROBLEMS}


@contextmanager
def _arrow_rows(spark: SparkSession, rows: int) -> Iterator[None]:
    before = spark.conf.get(_ROWS_CONF)
    spark.conf.set(_ROWS_CONF, str(rows))
    try:
        yield
    finally:
        spark.conf.set(_ROWS_CONF, before)


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turn what a worker raised with the mark into a ConfigError of that one line."""
    from pyspark.errors import PySparkException

    try:
        yield
    # Spark raises one kind or the other, by where the task's failure surfaces.
    except (PySparkException, RuntimeError) as error:
        marked = [line.partition(MARK)[2] for line in str(error).splitlines() if MARK in line]
        if marked:
            raise ConfigError(marked[-1].strip()) from None
        raise
