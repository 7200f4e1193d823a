"""The training sample: chosen and written by the executors, read by the driver file by file into one array."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import fsspec
import numpy as np
import pyarrow as pa

from esans.cluster.scan import Source, mean_of
from esans.codebooks.codebook import mix
from esans.columns import ITEM_IDX
from esans.uri import join

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_VECTORS = "vectors"


@dataclass
class Sample:
    """Training items on the driver, bounded by kmeans.max_training_vectors."""

    item: np.ndarray
    """(n,) int64."""
    vectors: np.ndarray
    """(n, M, d) float32."""
    mean: np.ndarray
    """(n, d) float32."""


def chosen(item: np.ndarray, share: float, seed: int) -> np.ndarray:
    """(n,) bool: about a `share` of items, by a hash of item_idx: the same ones however the table is cut."""
    if share >= 1:
        return np.ones(len(item), bool)
    salt = mix(np.array([seed], np.int64))[0]
    return np.asarray(mix(item.astype(np.uint64) ^ salt) < np.uint64(share * 2.0**64))


def draw_sample(spark: SparkSession, source: Source, bound: int, seed: int, scratch: str) -> Sample:
    """About `bound` items in the order of item_idx.

    Args:
        spark: the session.
        source: all aligned items.
        bound: most items wanted; the driver holds bound x (M + 1) x d x 4 bytes.
        seed: of the choice.
        scratch: URI of a folder that driver and executors see; it is gone afterwards.
    """
    shared, share = spark.sparkContext.broadcast(source), bound / max(source.rows, 1)
    filesystem, path = fsspec.core.url_to_fs(scratch)
    filesystem.makedirs(path, exist_ok=True)
    try:
        names = source.parallel(spark).map(lambda unit: _write(shared.value, unit, share, seed, scratch)).collect()
        return _read([join(scratch, name) for name in names if name])
    finally:
        shared.unpersist()
        filesystem.rm(path, recursive=True)


def _write(source: Source, unit: int, share: float, seed: int, folder: str) -> str:
    """The chosen rows of one row group as a file of its own (a retry writes another one); its name, or nothing when none was chosen."""
    import pyarrow.parquet as pq

    items, vectors = [], []
    for item, block in source.read(unit):
        kept = chosen(item, share, seed)
        items.append(item[kept])
        vectors.append(block[kept])
    item = np.concatenate(items)
    if not len(item):
        return ""
    stacked = np.concatenate(vectors)
    # One binary value an item: lists of floats take several times as long to write and to read.
    width = stacked[0].nbytes
    binary = pa.Array.from_buffers(pa.binary(width), len(item), [None, pa.py_buffer(stacked)])
    shape = {b"modalities": str(stacked.shape[1]).encode()}
    table = pa.table({ITEM_IDX: item, _VECTORS: binary}).replace_schema_metadata(shape)
    name = f"{unit:06d}-{uuid.uuid4().hex}.parquet"
    with fsspec.open(join(folder, name), "wb") as stream:
        pq.write_table(table, stream, compression="none", use_dictionary=False)
    return name


def _read(files: list[str]) -> Sample:
    import pyarrow.parquet as pq

    parts = []
    for file in files:
        with fsspec.open(file, "rb") as stream:
            parts.append(pq.read_table(stream, columns=[ITEM_IDX]).column(ITEM_IDX).to_numpy())
    item = np.concatenate(parts) if parts else np.empty(0, np.int64)
    order = np.argsort(item, kind="stable")
    place = np.empty(len(item), np.int64)
    place[order] = np.arange(len(item))
    vectors, done = np.empty((0, 1, 1), np.float32), 0
    for file, part in zip(files, parts, strict=True):
        with fsspec.open(file, "rb") as stream:
            table = pq.read_table(stream)
        column, modalities = table.column(_VECTORS).combine_chunks(), int(table.schema.metadata[b"modalities"])
        block = np.frombuffer(column.buffers()[1], np.float32).reshape(len(part), modalities, -1)
        if not done:
            vectors = np.empty((len(item), *block.shape[1:]), np.float32)
        vectors[place[done : done + len(part)]] = block
        done += len(part)
    return Sample(item[order], vectors, mean_of(vectors))
