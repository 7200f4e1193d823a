"""Semantic negatives joined to the examples: drawn by the functions that draw on the training device, but by Spark's Python workers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from esans import columns as c
from esans.errors import ConfigError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from esans.bundle import Bundle
    from esans.negatives.cluster_draws import ClusterDraws
    from esans.negatives.tables import ClusterTables
    from esans.shards.config import StitchConfig

# Draws at a time: one row of the transition table each, so 1,024 x K1 doubles.
_DRAWS = 1_024
_KEYS = (c.USER_IDX, c.TARGET, c.TIMESTAMP)


def shapes(config: StitchConfig) -> dict[str, tuple[int, ...]]:
    """Shape of one example's list, by column; nothing where stitching is off."""
    if not config.draws:
        return {}
    return {c.EASY_IDS: (config.draws, config.clusters, config.per_cluster), c.HARD_IDS: (config.draws, config.hard)}


def stitch(examples: DataFrame, cluster: Bundle, config: StitchConfig, seed: int) -> DataFrame:
    """Examples with the columns easy_ids and hard_ids (array<int>), in the order they come in (METHOD 3).

    The generator of each run of rows is seeded by the rows themselves, so that a retried task, other batches of Arrow and another
    number of executors draw the same. Each Python worker reads the cluster tables once: 24 bytes an item of the catalogue.

    Args:
        examples: rows of the table `examples` in a reproducible order within each partition.
        cluster: bundle of the cluster stage, at a URI that executors reach.
        config: what to draw; on.
        seed: of the run.

    Raises:
        ConfigError: as many clusters are asked for as there are primaries.
    """
    from pyspark.sql.types import ArrayType, IntegerType, StructField, StructType

    primaries = int(cluster.facts["num_primary"])
    if config.clusters >= primaries:
        raise ConfigError(f"shards.stitch.clusters = {config.clusters}: must be below the number of primary clusters ({primaries}).")
    lists = [StructField(name, ArrayType(IntegerType(), containsNull=False), nullable=False) for name in shapes(config)]
    return examples.mapInArrow(_task(cluster.uri, config, seed), StructType([*examples.schema.fields, *lists]))


def _task(uri: str, config: StitchConfig, seed: int) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def join(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        tables, primaries = _tables(uri, config.transition_temperature)
        for rows in runs(batches, max(1, _DRAWS // config.draws)):
            for name, ids in draw(rows, tables, primaries, config, seed).items():
                rows = rows.append_column(name, _lists(ids))
            yield from rows.combine_chunks().to_batches()

    return join


def runs(batches: Iterable[pa.RecordBatch], size: int) -> Iterator[pa.Table]:
    """The rows of `batches` in runs of `size`, the last one shorter, however the batches were cut."""
    waiting: pa.Table | None = None
    for batch in batches:
        fresh = pa.Table.from_batches([batch])
        waiting = fresh if waiting is None else pa.concat_tables([waiting, fresh])
        while len(waiting) >= size:
            yield waiting.slice(0, size)
            waiting = waiting.slice(size)
    if waiting is not None and len(waiting):
        yield waiting


def draw(rows: pa.Table, tables: ClusterTables, primaries: ClusterDraws, config: StitchConfig, seed: int) -> dict[str, np.ndarray]:
    """Negatives of B examples, before masks: easy (B, draws * m_c * m_o) and hard (B, draws * n_h), int32, PADDING where there is none."""
    import torch

    from esans.negatives.clusters import draw_hard, draw_members

    generator = torch.Generator().manual_seed(_seed(rows, seed))
    target = torch.from_numpy(rows.column(c.TARGET).to_numpy().astype(np.int64)).repeat_interleave(config.draws)
    primary = tables.item_primary_N[target]
    clusters = primaries.draw(primary, config.clusters, generator)
    easy = draw_members(tables, clusters, config.per_cluster, generator).masked_fill((primary < 0)[:, None, None], c.PADDING)
    hard, pool = draw_hard(tables, target, config.hard, generator)
    hard = hard.masked_fill(~pool[:, None], c.PADDING)
    return {name: ids.reshape(len(rows), -1).int().numpy() for name, ids in ((c.EASY_IDS, easy), (c.HARD_IDS, hard))}


def _seed(rows: pa.Table, seed: int) -> int:
    found = hashlib.blake2b(seed.to_bytes(8, "little", signed=True), digest_size=7)
    for name in _KEYS:
        found.update(rows.column(name).to_numpy().tobytes())
    return int.from_bytes(found.digest(), "little")


def _lists(ids: np.ndarray) -> pa.Array:
    offsets = np.arange(0, ids.size + 1, ids.shape[1], dtype=np.int32)
    kind = pa.list_(pa.field("element", pa.int32(), nullable=False))
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids.reshape(-1)), type=kind)


@lru_cache(maxsize=1)
def _tables(uri: str, temperature: float | None) -> tuple[ClusterTables, ClusterDraws]:
    # Once a Python worker, which takes one task after the other.
    import torch

    from esans.bundle import Bundle
    from esans.negatives.cluster_bundle import load_clusters
    from esans.negatives.cluster_draws import ClusterDraws

    # Spark runs one worker a core.
    torch.set_num_threads(1)
    tables = load_clusters(Bundle.open(uri))
    return tables, ClusterDraws(tables.log_transitions(temperature))
