"""Encoder `lightgcn`: the item graph goes to disk on the driver, a LightGCN is trained on samples of it, its vectors go back to Spark."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pyarrow as pa

from esans.columns import BEHAVIOUR_MODALITY, COUNT, ITEM_IDX, NEIGHBOUR_IDX, SCORE
from esans.features.adjacency import Adjacency, array, build
from esans.features.registry import Encoded, Interactions, Job
from esans.features.vectors import VECTOR, list_array, vector_schema
from esans.features.warm_rows import ROW, SQUARES, start_from
from esans.lake import read_parquet
from esans.progress import say
from esans.table import Table
from esans.uri import join

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from esans.features.item_table import ItemTable

ROWS = "behaviour_rows"
_ARROW_ROWS = 65_536
_ROWS_PER_FILE = 262_144
_SCHEMA = pa.schema([(ITEM_IDX, pa.int64()), (VECTOR, pa.list_(pa.float32()))])
_ROWS_SCHEMA = pa.schema([(ITEM_IDX, pa.int64()), (ROW, pa.list_(pa.float32())), (SQUARES, pa.float32())])


def encode(source: Interactions, config: Any, job: Job) -> Encoded:
    """Vectors of every item that has a neighbour, and table `behaviour_rows`, from which a later build may go on.

    Args:
        source: the item graph and the train events it was made of.
        config: the behaviour section.
        job: session, seed, sizes, the bundle beside which the vectors lie until the stage ends, and the earlier one to go on from.

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
        rows = _earlier_rows(job, config.dim)
        figures = {} if rows is None else {"started": float(start_from(table, graph, rows.batches([ITEM_IDX, ROW, SQUARES])))}
        curve = contrast.fit(began=rows is not None)
        vectors = infer(graph, table.weight, contrast.propagation, folder, device)
        frame = _to_spark(graph, vectors, job)
        _write_rows(graph, table, job)
    if curve.taken_back:
        say("  behaviour: training made the earlier vectors no better on held-out pairs; they stay, over the graph of today")
    figures |= {"steps": float(curve.steps), "loss": curve.loss[-1], "held_out_loss": curve.held_out[-1]}
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


def _earlier_rows(job: Job, dim: int) -> Table | None:
    """The trained rows of the earlier bundle, where they are to be gone on from."""
    if not job.keep_space or job.previous is None or not job.previous.has(ROWS):
        return None
    return job.previous.table(ROWS) if job.previous.facts["modalities"].get(BEHAVIOUR_MODALITY) == dim else None


def _to_spark(graph: Adjacency, vectors: np.ndarray, job: Job) -> DataFrame:
    """Write the vectors where executors can read them; the stage's last act removes them."""
    uri = job.out.kept_uri(f"{job.modality}_vectors")
    _write(uri, graph, _SCHEMA, lambda part: [_lists(vectors, part)])
    return read_parquet(job.spark, uri)


def _write_rows(graph: Adjacency, table: ItemTable, job: Job) -> None:
    uri = join(job.out.data_uri, ROWS)
    _write(uri, graph, _ROWS_SCHEMA, lambda part: [_lists(table.weight, part), pa.array(np.asarray(table.squares[part]))])
    job.out.adopt(ROWS)


def _lists(rows: np.ndarray, part: np.ndarray) -> pa.Array:
    return list_array(np.asarray(rows[part]), np.ones(len(part), bool))


def _write(uri: str, graph: Adjacency, schema: pa.Schema, columns: Callable[[np.ndarray], list[pa.Array]]) -> None:
    """Files of item_idx and further columns, of the items that have neighbours."""
    import pyarrow.parquet as pq

    filesystem, path = fsspec.core.url_to_fs(uri)
    filesystem.makedirs(path, exist_ok=True)
    for number, start in enumerate(range(0, graph.num_items, _ROWS_PER_FILE)):
        stop = min(start + _ROWS_PER_FILE, graph.num_items)
        items = np.flatnonzero(np.diff(graph.indptr[start : stop + 1])) + start
        # Arrow counts list elements with 32 bits, so rows go in parts.
        with filesystem.open(f"{path}/part-{number:05d}.parquet", "wb") as stream, pq.ParquetWriter(stream, schema) as writer:
            for part in np.array_split(items, max(1, -(-len(items) // _ARROW_ROWS))):
                writer.write_table(pa.table([pa.array(part), *columns(part)], schema=schema))
