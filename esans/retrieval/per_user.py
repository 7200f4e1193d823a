"""The `per_user` table: one row a user and method, for paired tests between methods."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING

from esans.columns import USER_IDX
from esans.retrieval.config import MetricsConfig
from esans.retrieval.metrics import user_metrics
from esans.retrieval.ragged import Ragged
from esans.retrieval.users import UserBatch
from esans.uri import join

if TYPE_CHECKING:
    import pyarrow as pa

TABLE = "per_user"


class PerUserFile:
    """Streams rows into one file of a table, that of one rank. Memory: one batch. The order of rows in the table has no meaning.

    Args:
        folder_uri: the table, `<data_uri>/per_user` of a bundle being written; adopt it there when every rank is done.
        config: names the metrics.
        rank: this process; an earlier start's file of the same rank is replaced.
    """

    def __init__(self, folder_uri: str, config: MetricsConfig, rank: int = 0) -> None:
        self._uri, self._config, self._rank = folder_uri, config, rank
        self._stack = ExitStack()

    def __enter__(self) -> PerUserFile:
        import fsspec
        import pyarrow.parquet as pq

        filesystem, folder = fsspec.core.url_to_fs(self._uri)
        filesystem.makedirs(folder, exist_ok=True)
        stream = self._stack.enter_context(filesystem.open(join(folder, f"part-{self._rank:05d}.parquet"), "wb"))
        self._writer = self._stack.enter_context(pq.ParquetWriter(stream, per_user_schema(self._config), compression="zstd"))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, trace)

    def keeper(self, method: str, split: str) -> Callable[[UserBatch, Ragged], None]:
        """What to call with each batch of users and its ranks."""
        return lambda batch, ranks: self._writer.write_batch(per_user_batch(method, split, batch, ranks, self._config))


def per_user_schema(config: MetricsConfig) -> pa.Schema:
    """Columns of the `per_user` table: '@' in a metric becomes '_at_'."""
    import pyarrow as pa

    metrics = user_metrics(Ragged.from_lists([]), config.ks, config.ndcg_k)
    fields = [("method", pa.string()), ("split", pa.string()), (USER_IDX, pa.int64()), ("targets", pa.int32()), ("seen", pa.int32())]
    return pa.schema([*fields, *((name.replace("@", "_at_"), pa.float64()) for name in metrics)])


def per_user_batch(method: str, split: str, batch: UserBatch, ranks: Ragged, config: MetricsConfig) -> pa.RecordBatch:
    """Rows of the `per_user` table, for paired tests between methods."""
    import pyarrow as pa

    values = {name.replace("@", "_at_"): value.numpy() for name, value in user_metrics(ranks, config.ks, config.ndcg_k).items()}
    fixed = {"method": [method] * len(batch), "split": [split] * len(batch), USER_IDX: batch.users.numpy()}
    lengths = {"targets": batch.targets.lengths.int().numpy(), "seen": batch.seen.lengths.int().numpy()}
    return pa.RecordBatch.from_pydict({**fixed, **lengths, **values}, schema=per_user_schema(config))
