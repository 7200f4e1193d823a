"""The only door to Petastorm: rows of whole files, in the order asked for, as numpy columns."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence

import fsspec
import numpy as np
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


def _broken(uris: Sequence[str]) -> str | None:
    """The first file whose footer can't be read: Petastorm reads ahead and does not say which one it was."""
    for uri in uris:
        try:
            with fsspec.open(uri, "rb") as stream:
                pq.read_metadata(stream)
        except (OSError, ValueError):
            return uri
    return None
