"""Write aligned vectors window by window, in files that Spark can read in parallel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from esans import columns
from esans.align.earlier import Unchanged
from esans.align.model import Aligner, fill_missing
from esans.align.reader import Reader, Rows
from esans.align.vq import PRIMARY, SECONDARY
from esans.bundle import BundleWriter
from esans.columns import CENTROID, ITEM_IDX, MEAN, PRESENT
from esans.progress import Bar

_ROWS_PER_GROUP = 32_768
_CHUNK = 8_192
# Floats repeat too seldom for a dictionary, and zstd would save 8 % of the bytes for a third more time to read them.
_LAYOUT = {"compression": "none", "use_dictionary": False}


def schema(modalities: list[str]) -> pa.Schema:
    """item_idx, one list<float> per modality and for the mean, present list<bool>."""
    vectors = [(name, _list_of(pa.float32())) for name in [*modalities, MEAN]]
    return pa.schema([(ITEM_IDX, pa.int64()), *vectors, (PRESENT, _list_of(pa.bool_()))])


def _list_of(kind: pa.DataType) -> pa.DataType:
    # Elements that cannot be null need no levels, and are a quarter faster to read.
    return pa.list_(pa.field("element", kind, nullable=False))


def write_vectors(reader: Reader, model: Aligner, folder: Path, rows_per_file: int, unchanged: Unchanged | None = None) -> int:
    """Align every item that has a modality; returns how many have none and got no row.

    Args:
        reader: today's features.
        model: the heads.
        folder: to write to.
        rows_per_file: items per file.
        unchanged: the earlier table that the same heads gave; its rows are kept bit for bit where nothing has changed.
    """
    folder.mkdir(parents=True)
    table = schema(model.names)
    unaligned = done = number = 0
    writer, in_file = pq.ParquetWriter(folder / f"part-{number:05d}.parquet", table, **_LAYOUT), 0
    try:
        with Bar("write aligned vectors", total=None, unit="items") as bar:
            for window in (found.rows for found in reader.windows()):
                some = window.present.any(axis=1)
                unaligned += int((~some).sum())
                for start in range(0, len(window), _CHUNK):
                    part = np.flatnonzero(some[start : start + _CHUNK]) + start
                    if in_file >= rows_per_file:
                        writer.close()
                        number, in_file = number + 1, 0
                        writer = pq.ParquetWriter(folder / f"part-{number:05d}.parquet", table, **_LAYOUT)
                    writer.write_table(_table(window.take(part), model, table, unchanged), row_group_size=_ROWS_PER_GROUP)
                    in_file, done = in_file + len(part), done + len(part)
                    bar.update(done)
    finally:
        writer.close()
    return unaligned


def write_codebooks(books: Mapping[str, torch.Tensor], out: BundleWriter) -> None:
    """Tables codebook_primary (c1, centroid) and codebook_secondary (c2, centroid) of trained codebooks; nothing without any.

    A secondary centroid is as long as all modalities together, in the order of facts.modalities.
    """
    for level, code in ((PRIMARY, columns.PRIMARY), (SECONDARY, columns.SECONDARY)):
        if level in books:
            number = pa.array(np.arange(len(books[level]), dtype=np.int32))
            out.write_arrow(f"codebook_{level}", pa.table({code: number, CENTROID: _lists(books[level].numpy())}))


@torch.no_grad()
def _table(rows: Rows, model: Aligner, wanted: pa.Schema, unchanged: Unchanged | None) -> pa.Table:
    device = next(model.parameters()).device
    aligned_NMD = model([torch.from_numpy(x).to(device) for x in rows.vectors])
    filled_NMD, mean_ND = fill_missing(aligned_NMD, torch.from_numpy(rows.present).to(device))
    filled, mean = filled_NMD.cpu().numpy(), mean_ND.cpu().numpy()
    if unchanged is not None:
        # Views: what is kept is put in place.
        named = {name: filled[:, place] for place, name in enumerate(model.names)}
        unchanged.keep(rows.item, {**named, MEAN: mean, PRESENT: rows.present})
    vectors = [_lists(filled[:, place]) for place in range(filled.shape[1])]
    return pa.Table.from_arrays([pa.array(rows.item), *vectors, _lists(mean), _lists(rows.present)], schema=wanted)


def _lists(values: np.ndarray) -> pa.Array:
    offsets = pa.array(np.arange(0, values.size + 1, values.shape[1], dtype=np.int32))
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.ListArray.from_arrays(offsets, flat, type=_list_of(flat.type))
