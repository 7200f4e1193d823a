"""Encoder `lightgcn`: the item graph goes to disk on the driver, a LightGCN is trained on samples of it, its vectors go back to Spark."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pyarrow as pa

from esans.columns import COUNT, ITEM_IDX, NEIGHBOUR_IDX, SCORE
from esans.features.adjacency import Adjacency, array, build
from esans.features.registry import Encoded, Interactions, Job
from esans.features.vectors import VECTOR, list_array, vector_schema
from esans.lake import read_parquet

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_ARROW_ROWS = 65_536
_ROWS_PER_FILE = 262_144
_SCHEMA = pa.schema([(ITEM_IDX, pa.int64()), (VECTOR, pa.list_(pa.float32()))])


def encode(source: Interactions, config: Any, job: Job) -> Encoded:
    """Vectors of every item that has a neighbour.

    Args:
        source: the item graph and the train events it was made of.
        config: the behaviour section.
        job: session, seed, sizes, and the bundle beside which the vectors lie until the stage ends.

    Raises:
        ConfigError: a GPU is asked for and there is none.
    """
    import torch

    from esans.features.contrast import Contrast
    from esans.features.item_table import ItemTable
    from esans.features.propagation import infer
    from esans.features.sampling import pairs
    from esans.retrieval.encode import pick_device

    settings = config.lightgcn
    device = torch.device(pick_device(settings.device, "features.behaviour.lightgcn.device"))
    if source.table.rows == 0:
        return Encoded(job.spark.createDataFrame([], vector_schema()), config.dim)
    with tempfile.TemporaryDirectory(prefix="esans-lightgcn-") as name:
        folder = Path(name)
        graph = build(lambda: _batches(source), job.num_items, source.table.rows, folder)
        table = ItemTable(job.num_items, config.dim, folder, job.seed, settings.learning_rate)
        contrast = Contrast(settings, pairs(graph, _counts(source, job.num_items, folder), folder), table, job.seed, device)
        curve = contrast.fit()
        vectors = infer(graph, table.weight, contrast.propagation, folder, device)
        frame = _to_spark(graph, vectors, job)
    figures = {"steps": float(curve.steps), "loss": curve.loss[-1], "held_out_loss": curve.held_out[-1]}
    return Encoded(frame, config.dim, {f"behaviour.lightgcn.{name}": value for name, value in figures.items() if np.isfinite(value)})


def _batches(source: Interactions) -> Iterator[pa.RecordBatch]:
    # Arrow reads ahead 16 batches of 16 files by default, which no stated bound would survive.
    columns = [ITEM_IDX, NEIGHBOUR_IDX, SCORE]
    scan = source.table.dataset().scanner(columns=columns, batch_size=_ARROW_ROWS, batch_readahead=2, fragment_readahead=1)
    yield from scan.to_batches()


def _counts(source: Interactions, num_items: int, folder: Path) -> np.ndarray:
    """(N,) train events of each item, streamed into a file."""
    count = array(folder, "count", num_items, np.int64)
    for batch in source.popularity.batches([ITEM_IDX, COUNT]):
        count[batch.column(0).to_numpy()] = batch.column(1).to_numpy()
    return count


def _to_spark(graph: Adjacency, vectors: np.ndarray, job: Job) -> DataFrame:
    """Write the vectors where executors can read them; the stage's last act removes them."""
    import pyarrow.parquet as pq

    uri = job.out.kept_uri(f"{job.modality}_vectors")
    filesystem, path = fsspec.core.url_to_fs(uri)
    filesystem.makedirs(path, exist_ok=True)
    for number, start in enumerate(range(0, graph.num_items, _ROWS_PER_FILE)):
        stop = min(start + _ROWS_PER_FILE, graph.num_items)
        items = np.flatnonzero(np.diff(graph.indptr[start : stop + 1])) + start
        # Arrow counts list elements with 32 bits, so rows go in parts.
        with filesystem.open(f"{path}/part-{number:05d}.parquet", "wb") as stream, pq.ParquetWriter(stream, _SCHEMA) as writer:
            for part in np.array_split(items, max(1, -(-len(items) // _ARROW_ROWS))):
                column = list_array(np.asarray(vectors[part]), np.ones(len(part), bool))
                writer.write_table(pa.table([pa.array(part), column], schema=_SCHEMA))
    return read_parquet(job.spark, uri)
