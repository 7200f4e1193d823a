"""What changed since an earlier export: new and moved vectors, and the ids that are gone, so that a consumer need not read all again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from esans.errors import BundleError
from esans.export.vectors import VECTOR
from esans.progress import Bar
from esans.table import Table, rectangular

if TYPE_CHECKING:
    from esans.bundle import BundleWriter

REMOVED, DELTA = "_removed", "_delta"

# Indices compared at a time: of the earlier export their ids and vectors are in memory, about 350 MB at 64 dimensions.
_RANGE = 1_000_000


@dataclass(frozen=True)
class Changes:
    """Rows of the new table, those of them that are new or moved, and rows of the earlier table that are gone."""

    rows: int
    changed: int
    removed: int

    @property
    def share(self) -> float:
        """Changed rows of the new table; 0 where it is empty."""
        return self.changed / self.rows if self.rows else 0.0


def write_delta(out: BundleWriter, name: str, old: Table, new: Table, index: str, key: str, tolerance: float) -> Changes:
    """Write tables `<name>_delta` (like `name`: the rows that are new or changed) and `<name>_removed` (index, key of rows that are gone).

    Rows are the same where index and key are. A vector changed where a component moved by more than `tolerance`. An id under another
    index is gone and new: take the removals first.

    Args:
        out: the bundle to write to.
        name: item_vectors or user_vectors.
        old: that table of the earlier export.
        new: that table of this export.
        index: its column of indices, from 0.
        key: its column of outside ids.
        tolerance: largest move of a component that is no change.

    Raises:
        BundleError: the vectors have other dimensions.
    """
    done = changed = removed = 0
    columns = [index, key, VECTOR]
    end = max(_largest(old, index), _largest(new, index)) + 1
    with (
        out.local(f"{name}{DELTA}/part-00000.parquet") as delta_path,
        out.local(f"{name}{REMOVED}/part-00000.parquet") as removed_path,
        pq.ParquetWriter(delta_path, new.dataset().schema, compression="zstd") as delta_file,
        pq.ParquetWriter(removed_path, pa.schema([(index, pa.int64()), (key, pa.string())]), compression="zstd") as removed_file,
        Bar(f"changes of {name}", new.rows, "rows") as bar,
    ):
        for start in range(0, end, _RANGE):
            within = (pads.field(index) >= start) & (pads.field(index) < start + _RANGE)
            earlier = _Earlier(old.dataset().to_table(columns=columns, filter=within), start, index, key, old.uri)
            for batch in new.dataset().to_batches(columns=columns, filter=within):
                moved = batch.filter(pa.array(earlier.differs(batch, tolerance)))
                if len(moved):
                    delta_file.write_batch(moved)
                done, changed = done + len(batch), changed + len(moved)
                bar.update(done)
            gone = earlier.unmatched()
            removed_file.write_table(gone)
            removed += gone.num_rows
    out.adopt(f"{name}{DELTA}")
    out.adopt(f"{name}{REMOVED}")
    return Changes(done, changed, removed)


def patched(old: Table, delta: Table, removed: Table, key: str) -> Iterator[pa.RecordBatch]:
    """The rows of the new table, in another order: those of the earlier one without what was removed or changed, then the delta.

    Memory: the ids of both deltas.
    """
    out_of_date = pa.concat_tables([removed.arrow([key]), delta.arrow([key])]).column(key).combine_chunks()
    for batch in old.batches():
        yield batch.filter(pc.invert(pc.is_in(batch.column(batch.schema.get_field_index(key)), value_set=out_of_date)))
    yield from delta.batches()


def _largest(table: Table, index: str) -> int:
    return max((pc.max(batch.column(0)).as_py() for batch in table.batches([index]) if len(batch)), default=0)


class _Earlier:
    """Rows of the earlier export with indices from `start`, and which of them the new one still has."""

    def __init__(self, rows: pa.Table, start: int, index: str, key: str, uri: str) -> None:
        self._start, self._index, self._key, self._uri = start, index, key, uri
        # Where each index stands among the rows, -1 for none: vectors stay in the order they were read in.
        places = rows.column(index).to_numpy() - start
        self._row = np.full(int(places.max(initial=-1)) + 1, -1, dtype=np.int64)
        self._row[places] = np.arange(len(places))
        self._rows = rows.select([index, key])
        self._ids = rows.column(key).combine_chunks()
        self._vectors = rectangular(rows.column(VECTOR).combine_chunks(), uri, VECTOR)
        self._found = np.zeros(len(places), dtype=bool)

    def differs(self, batch: pa.RecordBatch, tolerance: float) -> np.ndarray:
        """(n,) bool: rows of the new export that are not in the earlier one, or moved."""
        places = batch.column(0).to_numpy() - self._start
        inside = places < len(self._row)
        row = np.full(len(batch), -1, dtype=np.int64)
        row[inside] = self._row[places[inside]]
        known = np.flatnonzero(row >= 0)
        if not len(known):
            return np.ones(len(batch), dtype=bool)
        same_id = pc.equal(batch.column(1).take(pa.array(known)), self._ids.take(pa.array(row[known]))).to_numpy(zero_copy_only=False)
        known = known[same_id.astype(bool)]
        self._found[row[known]] = True
        vectors = rectangular(batch.column(2), self._uri, VECTOR)
        if len(known) and vectors.shape[1] != self._vectors.shape[1]:
            raise BundleError(
                f"{self._uri} has vectors of {self._vectors.shape[1]} dimensions, this export of {vectors.shape[1]}: "
                "there is no delta between them. Leave out export.delta_from."
            )
        result = np.ones(len(batch), dtype=bool)
        result[known] = np.abs(vectors[known] - self._vectors[row[known]]).max(axis=1, initial=0) > tolerance
        return result

    def unmatched(self) -> Any:
        """(index, key) of the earlier rows that no batch held."""
        return self._rows.filter(pa.array(~self._found))
