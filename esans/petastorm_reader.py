"""The only door to Petastorm: rows of whole files, in the order asked for, as numpy columns."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
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


# Petastorm reads the footers of all its files before the first row: in parts, a long list starts as fast as a short one.
_FILES_AT_ONCE = 64
# Between two looks of Petastorm's idle worker at whether it shall end: at its own 1 ms it takes the interpreter from a training step fifty
# times, for nothing. New work wakes it at once.
_SECONDS_BETWEEN_LOOKS = 0.02
Columns = dict[str, np.ndarray]


def read_files(
    uris: Sequence[str], columns: Sequence[str], skip_bad: bool = False, readers: int = 1
) -> Generator[Columns | None, None, None]:
    """Columns of each file in turn.

    One worker, no shuffling, never `cur_shard`: only then does a list of URIs keep its order; parallelism comes from
    several readers (PLATFORM). Every file holds one row group and at least one row. A reader holds three row groups at most.

    Args:
        uris: Parquet files with a scheme, all of one scheme and host, in the order wanted.
        columns: columns to read, without nulls.
        skip_bad: go on after a file that can't be read.
        readers: files that are read at once, each by a thread of its own.

    Yields:
        One dict of arrays per file, of the file's own types: (rows,) for scalars, (rows, length) for lists.
        None for a file that can't be read, with `skip_bad`; a line tells which one.

    Raises:
        BundleError: without `skip_bad`, a file can't be read, lacks a column, or has lists of different lengths in one; the message names
            it and its row group.
    """
    for first in range(0, len(uris), _FILES_AT_ONCE):
        some = uris[first : first + _FILES_AT_ONCE]
        with ExitStack() as opened:
            parts = [opened.enter_context(closing(_read_some(some[place::readers], columns, skip_bad))) for place in range(readers)]
            for place in range(len(some)):
                yield next(parts[place % readers])


def _read_some(uris: Sequence[str], columns: Sequence[str], skip_bad: bool) -> Generator[Columns | None, None, None]:
    done = 0
    if not uris:
        return
    try:
        with _arrow_reader(uris, columns) as tables:
            for table in tables:
                yield {name: _rectangular(table.column(name), name) for name in columns}
                done += 1
    except Exception as error:  # Those of Arrow, Petastorm and the clients of stores have no common base.
        # One bad footer fails the whole list when it is opened; a bad page fails the file that is next in order.
        rest = uris[done:]
        bad = {uri for uri in rest if not _has_footer(uri)} or set(rest[:1])
        if not bad:
            raise
        first = next(uri for uri in rest if uri in bad)
        if not skip_bad:
            raise BundleError(f"cannot read shard {first}, row group 0: {str(error) or repr(error)}") from error
        start = 0
        for place, uri in enumerate(rest):
            if uri in bad:
                yield from _read_some(rest[start:place], columns, skip_bad)
                yield None
                start = place + 1
        yield from _read_some(rest[start:], columns, skip_bad)


def _rectangular(column: pa.ChunkedArray, name: str) -> np.ndarray:
    """(rows,) of a scalar column, (rows, length) of a list column; no copy where the column is one chunk."""
    if not pa.types.is_list(column.type):
        # As numpy they would be NaN, and then an id.
        if column.null_count:
            raise ValueError(f"column {name!r} has nulls")
        return column.to_numpy()
    parts = []
    for chunk in column.chunks:
        flat, lengths = chunk.flatten().to_numpy(zero_copy_only=False), chunk.value_lengths().to_numpy(zero_copy_only=False)
        if chunk.null_count or (lengths != lengths[0]).any():
            raise ValueError(f"column {name!r} has nulls or lists of different lengths")
        parts.append(flat.reshape(len(chunk), int(lengths[0])))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


@contextmanager
def _arrow_reader(uris: Sequence[str], columns: Sequence[str]) -> Iterator[Iterator[pa.Table]]:
    """Petastorm's reader with one worker and no shuffling, as `read_files` opens it, but giving the Arrow table of each row group."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from petastorm.fs_utils import get_filesystem_and_path_or_paths
        from petastorm.reader import Reader
        from petastorm.workers_pool import thread_pool

        thread_pool.IO_TIMEOUT_INTERVAL_S = _SECONDS_BETWEEN_LOOKS
        logging.getLogger("petastorm").setLevel(logging.ERROR)
        remote = None if uris[0].startswith("file:") else _remote()(fsspec.core.url_to_fs(uris[0])[0])
        filesystem, paths = get_filesystem_and_path_or_paths(list(uris), filesystem=remote)
        fields = [f"^{column}$" for column in columns]
        with Reader(
            filesystem,
            paths,
            schema_fields=fields,
            worker_class=_worker(),
            reader_pool=thread_pool.ThreadPool(1),
            shuffle_row_groups=False,
            is_batched_reader=True,
        ) as reader:
            yield reader


@cache
def _remote() -> type[Any]:
    """An fsspec file system as Petastorm's use of ParquetDataset needs it: given a bare one, pyarrow 14 makes its newer class instead."""
    from pyarrow.filesystem import FileSystem

    class Remote(FileSystem):
        def __init__(self, filesystem: Any) -> None:
            self.isdir, self.isfile, self.exists, self.ls = filesystem.isdir, filesystem.isfile, filesystem.exists, filesystem.ls
            self._open = filesystem.open

        def open(self, path: str, mode: str = "rb", **_: Any) -> Any:
            return self._open(path, mode)

    return Remote


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
    return next((uri for uri in uris if not _has_footer(uri)), None)


def _has_footer(uri: str) -> bool:
    try:
        with fsspec.open(uri, "rb") as stream:
            pq.read_metadata(stream)
    except Exception:
        return False
    return True
