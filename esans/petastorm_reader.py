"""The only door to Petastorm: rows of whole files, in the order asked for, as numpy columns."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from esans.errors import BundleError

# Petastorm warns about its own use of deprecated pyarrow calls on every open.
warnings.filterwarnings("ignore", category=FutureWarning, module="petastorm")
warnings.filterwarnings("ignore", category=FutureWarning, module="pyarrow")
warnings.filterwarnings("ignore", category=DeprecationWarning, module="petastorm")


def read_files(uris: Sequence[str], columns: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
    """Columns of each file in turn.

    One worker, no shuffling, never `cur_shard`: only then does a list of URIs keep its order; parallelism comes from
    several readers (PLATFORM). Every file holds one row group.

    Args:
        uris: Parquet files with a scheme, in the order wanted.
        columns: columns to read.

    Yields:
        One dict of arrays per file: (rows,) for scalars, (rows, length) for lists.

    Raises:
        BundleError: a file can't be read; the message names it.
    """
    if not uris:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from petastorm import make_batch_reader

        logging.getLogger("petastorm").setLevel(logging.ERROR)
        read = 0
        try:
            with make_batch_reader(
                list(uris),
                schema_fields=[f"^{column}$" for column in columns],
                reader_pool_type="thread",
                workers_count=1,
                shuffle_row_groups=False,
                num_epochs=1,
            ) as reader:
                for batch in reader:
                    yield {column: np.asarray(getattr(batch, column)) for column in columns}
                    read += 1
        except (OSError, ValueError) as error:
            raise BundleError(f"cannot read shard {_broken(uris[read:]) or uris[read]}, row group 0: {error}") from error


@contextmanager
def _arrow_reader(uris: Sequence[str], columns: Sequence[str]) -> Iterator[Iterator[pa.Table]]:
    """Petastorm's reader with one worker and no shuffling, as `read_files` opens it, but giving the Arrow table of each row group."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from petastorm.fs_utils import get_filesystem_and_path_or_paths
        from petastorm.reader import Reader
        from petastorm.workers_pool.thread_pool import ThreadPool

        logging.getLogger("petastorm").setLevel(logging.ERROR)
        filesystem, paths = get_filesystem_and_path_or_paths(list(uris))
        fields = [f"^{column}$" for column in columns]
        with Reader(
            filesystem,
            paths,
            schema_fields=fields,
            worker_class=_worker(),
            reader_pool=ThreadPool(1),
            shuffle_row_groups=False,
            is_batched_reader=True,
        ) as reader:
            yield reader


@cache
def _worker() -> type[Any]:
    """Petastorm's own worker, but results stay Arrow tables: its conversion to numpy fails on null lists and makes an object of a row."""
    from petastorm.arrow_reader_worker import ArrowReaderWorker
    from petastorm.workers_pool import EmptyResultError

    class Tables:
        batched_output = True

        def read_next(self, workers_pool: Any, schema: Any, ngram: Any) -> pa.Table:
            try:
                return workers_pool.get_results()
            except EmptyResultError:
                raise StopIteration from None

    class Worker(ArrowReaderWorker):
        @staticmethod
        def new_results_queue_reader() -> Tables:
            return Tables()

    return Worker


def read_vectors(uris: Sequence[str], index: str, lengths: Mapping[str, int]) -> Iterator[tuple[np.ndarray, list[np.ndarray], np.ndarray]]:
    """A long column and vectors that may be missing (null), row group by row group, in the order of the files.

    Petastorm holds three row groups at most. Order and parallelism as in `read_files`.

    Args:
        uris: Parquet files with a scheme, in the order wanted.
        index: a long column without nulls.
        lengths: list columns and the length of their vectors.

    Yields:
        (n,) int64; one (n, length) float32 per list column, zeros where it is null; (n, columns) bool, False where it is null.

    Raises:
        BundleError: a file can't be read, or a vector has another length; the message names it.
    """
    if not uris:
        return
    try:
        with _arrow_reader(uris, [index, *lengths]) as tables:
            for table in tables:
                found = [_dense(table.column(name), name, length) for name, length in lengths.items()]
                yield table.column(index).to_numpy(), [vectors for vectors, _ in found], np.stack([valid for _, valid in found], axis=1)
    except (OSError, ValueError) as error:
        raise BundleError(f"cannot read {_broken(uris) or uris[0]}: {error}") from error


def _dense(column: pa.ChunkedArray, name: str, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, length) float32 with zeros at nulls, and (n,) bool: what is no null."""
    vectors, valid = np.zeros((len(column), length), np.float32), np.empty(len(column), bool)
    start = 0
    for chunk in column.chunks:
        rows = slice(start, start + len(chunk))
        valid[rows] = chunk.is_valid().to_numpy(zero_copy_only=False)
        flat = chunk.flatten().to_numpy(zero_copy_only=False)
        if len(flat) != valid[rows].sum() * length:
            raise BundleError(f"column {name!r} has vectors whose length is not {length}")
        if valid[rows].all():
            vectors[rows] = flat.reshape(-1, length)
        else:
            vectors[rows][valid[rows]] = flat.reshape(-1, length)
        start = rows.stop
    return vectors, valid


def _broken(uris: Sequence[str]) -> str | None:
    """The first file whose footer can't be read: Petastorm reads ahead and does not say which one it was."""
    for uri in uris:
        try:
            with fsspec.open(uri, "rb") as stream:
                pq.read_metadata(stream)
        except (OSError, ValueError):
            return uri
    return None
