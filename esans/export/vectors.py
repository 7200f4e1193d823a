"""Item and user vectors as Parquet, with the ids that people know; users are streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from torch import Tensor

from esans.columns import ITEM_ID, ITEM_IDX, SERVE, USER_ID, USER_IDX
from esans.progress import Bar
from esans.retrieval.encode import Towers, encode_users
from esans.retrieval.users import UserBatch, user_batches

if TYPE_CHECKING:
    from esans.bundle import Bundle, BundleWriter

VECTOR = "vector"

# Users whose ids are held at a time: about 100 MB.
_ID_RANGE = 1_000_000
_ROWS = 65_536


def write_item_vectors(out: BundleWriter, item_ids: pa.Array, vectors: Tensor) -> None:
    """Table `item_vectors`: item_idx, item_id, vector (list of float), one row an item in index order."""
    schema = pa.schema([(ITEM_IDX, pa.int64()), (ITEM_ID, pa.string()), (VECTOR, pa.list_(pa.float32()))])
    with out.local("item_vectors/part-00000.parquet") as path, pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, len(vectors), _ROWS):
            part = vectors[start : start + _ROWS]
            index = pa.array(np.arange(start, start + len(part)))
            writer.write_batch(pa.record_batch([index, item_ids.slice(start, len(part)), _lists(part)], schema=schema))
    out.adopt("item_vectors")


def write_user_vectors(
    out: BundleWriter,
    prepare: Bundle,
    model: Towers,
    batch_size: int,
    device: str,
    on_batch: Callable[[UserBatch, Tensor], None],
) -> int:
    """Table `user_vectors`: user_idx, user_id, vector, from all that each user did. Returns the number of users.

    Args:
        out: the bundle to write to.
        prepare: histories and ids.
        model: the towers, on `device`.
        batch_size: users encoded at a time.
        device: cpu or cuda.
        on_batch: sees every batch with its (B, dim) vectors.
    """
    schema = pa.schema([(USER_IDX, pa.int64()), (USER_ID, pa.string()), (VECTOR, pa.list_(pa.float32()))])
    num_users, done = int(prepare.facts["num_users"]), 0
    with Bar("user vectors", num_users, "users") as bar:
        for number, start in enumerate(range(0, max(num_users, 1), _ID_RANGE)):
            within = (pads.field(USER_IDX) >= start) & (pads.field(USER_IDX) < start + _ID_RANGE)
            ids = _ids(prepare, start, min(_ID_RANGE, num_users - start), within)
            with out.local(f"user_vectors/part-{number:05d}.parquet") as path, pq.ParquetWriter(path, schema, compression="zstd") as writer:
                for batch in user_batches(prepare.table("histories"), SERVE, batch_size, where=within):
                    vectors = encode_users(model, batch, device)
                    on_batch(batch, vectors)
                    users = batch.users.numpy()
                    columns = [pa.array(users), pa.array(ids[users - start], pa.string()), _lists(vectors)]
                    writer.write_batch(pa.record_batch(columns, schema=schema))
                    done += len(batch)
                    bar.update(done)
    out.adopt("user_vectors")
    return done


def read_item_ids(prepare: Bundle) -> pa.Array:
    """Item ids in index order. Memory: the ids of the catalogue, which serving holds anyway."""
    size = int(prepare.facts["num_items"])
    ids = np.empty(size, dtype=object)
    for batch in prepare.table("items").batches([ITEM_IDX, ITEM_ID]):
        ids[batch.column(0).to_numpy(zero_copy_only=False)] = batch.column(1).to_numpy(zero_copy_only=False)
    return pa.array(ids, pa.string())


def _ids(prepare: Bundle, start: int, size: int, within: pads.Expression) -> np.ndarray:
    ids = np.empty(size, dtype=object)
    for batch in _filtered(prepare, within):
        ids[batch.column(0).to_numpy(zero_copy_only=False) - start] = batch.column(1).to_numpy(zero_copy_only=False)
    return ids


def _filtered(prepare: Bundle, within: pads.Expression) -> Iterator[pa.RecordBatch]:
    yield from prepare.table("users").dataset().to_batches(columns=[USER_IDX, USER_ID], filter=within)


def _lists(vectors: Tensor) -> pa.Array:
    flat = vectors.cpu().numpy().astype(np.float32)
    offsets = np.arange(0, flat.size + 1, flat.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, flat.ravel())
