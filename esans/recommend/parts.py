"""Part files of recommendations: each is there whole or not at all, under a name that tells its users, so that a killed run goes on."""

from __future__ import annotations

import posixpath
import uuid
from dataclasses import dataclass
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from esans.columns import HISTORY, SEEN, USER_ID, USER_IDX
from esans.recommend.served import Served
from esans.retrieval.ragged import Ragged
from esans.retrieval.users import UserBatch
from esans.uri import is_local

ITEM_IDS, SCORES, FALLBACK, KNOWN_USER = "item_ids", "scores", "fallback", "known_user"
SCHEMA = pa.schema(
    [
        (USER_ID, pa.string()),
        (USER_IDX, pa.int64()),
        (ITEM_IDS, pa.list_(pa.string())),
        (SCORES, pa.list_(pa.float32())),
        (FALLBACK, pa.bool_()),
        (KNOWN_USER, pa.bool_()),
    ]
)


@dataclass
class Counts:
    """Users so far: all, those that the data do not know, those without a history that the model knows, those with fewer than k items."""

    users: int = 0
    unknown: int = 0
    without_history: int = 0
    short: int = 0

    def add(self, table: pa.Table, k: int) -> None:
        """Count the rows of a finished part."""
        fallback, known = table.column(FALLBACK).to_numpy(), table.column(KNOWN_USER).to_numpy()
        lengths = table.column(ITEM_IDS).combine_chunks().value_lengths().to_numpy()
        self.users += table.num_rows
        self.unknown += int((~known).sum())
        self.without_history += int((fallback & known).sum())
        self.short += int((lengths < k).sum())


class Parts:
    """The part files in a folder."""

    def __init__(self, uri: str) -> None:
        self._filesystem, self._folder = fsspec.core.url_to_fs(uri)
        self._filesystem.makedirs(self._folder, exist_ok=True)
        found = [posixpath.basename(path) for path in self._filesystem.find(self._folder)]
        self._done = {name for name in found if name.endswith(".parquet")}
        # Cut short by a kill; their users are done again.
        for name in found:
            if name.endswith(".part"):
                self._filesystem.rm(f"{self._folder}/{name}")

    def read(self, chunk: int) -> pa.Table | None:
        """The finished part of a chunk, or None."""
        if part_name(chunk) not in self._done:
            return None
        with self._filesystem.open(f"{self._folder}/{part_name(chunk)}", "rb") as stream:
            return pq.read_table(stream, columns=[FALLBACK, KNOWN_USER, ITEM_IDS])

    def write(self, chunk: int, table: pa.Table) -> None:
        """Write a part, which then is there as a whole."""
        path = f"{self._folder}/{part_name(chunk)}"
        if is_local(self._filesystem):
            aside = f"{path}.{uuid.uuid4().hex}.part"
            pq.write_table(table, aside, compression="zstd")
            Path(aside).replace(path)
        else:
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink, compression="zstd")
            self._filesystem.pipe_file(path, sink.getvalue().to_pybytes())


def part_name(chunk: int) -> str:
    """Of a chunk; negative chunks hold unknown users."""
    return f"part-{chunk:07d}.parquet" if chunk >= 0 else f"part-unknown-{-chunk:07d}.parquet"


def recommended(rows: pa.Table, served: Served, k: int, user_batch: int, item_chunk: int, device: str) -> pa.Table:
    """The part of one chunk of requests: a row a user, in their order."""
    parts = []
    for start in range(0, rows.num_rows, user_batch):
        part = rows.slice(start, user_batch).combine_chunks()
        scores, items, fallback = _ranked(served, _user_batch(part), k, item_chunk, device)
        parts.append(_table(part, served.item_ids, scores, items, fallback))
    return pa.concat_tables(parts)


def _ranked(served: Served, users: UserBatch, k: int, item_chunk: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """(B, k) scores and items, and (B,) which users have none but the popular items."""
    users = served.translated(users)
    fallback = users.history.lengths == 0
    k = min(k, len(served.item_ids))
    scores = torch.full((len(users), k), -torch.inf)
    items = torch.full((len(users), k), -1, dtype=torch.int64)
    for chosen, cold in ((torch.nonzero(~fallback).flatten(), False), (torch.nonzero(fallback).flatten(), True)):
        if len(chosen):
            picked = users.pick(chosen)
            found = served.popular(picked, k, item_chunk) if cold else served.best(picked, k, item_chunk, device)
            scores[chosen], items[chosen] = found[0].float(), found[1]
    return scores, items, fallback


def _user_batch(rows: pa.Table) -> UserBatch:
    def column(name: str) -> pa.Array:
        return rows.column(name).combine_chunks()

    users = column(USER_IDX).fill_null(-1).to_numpy(zero_copy_only=False).copy()
    none = Ragged.from_lengths(torch.zeros(len(users), dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    return UserBatch(torch.from_numpy(users), Ragged.from_arrow(column(HISTORY)), none, Ragged.from_arrow(column(SEEN)))


def _table(rows: pa.Table, item_ids: pa.Array, scores: Tensor, items: Tensor, fallback: Tensor) -> pa.Table:
    kept = (items >= 0).numpy()
    offsets = pa.array(np.concatenate([[0], kept.sum(axis=1).cumsum()]).astype(np.int32))
    ids = item_ids.take(pa.array(items.numpy()[kept]))
    columns = {
        USER_ID: rows.column(USER_ID),
        USER_IDX: rows.column(USER_IDX),
        ITEM_IDS: pa.ListArray.from_arrays(offsets, ids),
        SCORES: pa.ListArray.from_arrays(offsets, pa.array(scores.numpy()[kept], pa.float32())),
        FALLBACK: pa.array(fallback.numpy()),
        KNOWN_USER: rows.column(USER_IDX).is_valid(),
    }
    return pa.table(columns, schema=SCHEMA)
