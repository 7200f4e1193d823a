"""The folder that a served model is made of: its towers, the index over the items on offer, and the ids.

model/          as esans.model.save wrote it
index.faiss     over the items that may be recommended
items.parquet   item_id, count, place (row in the index, -1 for items that may not be recommended); in item_idx order
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from esans.columns import COUNT, ITEM_ID
from esans.retrieval.keys import tie_order

if TYPE_CHECKING:
    import pyarrow as pa

MODEL, INDEX, ITEMS, PLACE = "model", "index.faiss", "items.parquet", "place"


@dataclass(frozen=True)
class ServedItems:
    """The items of a served model, by item_idx: (N,) ids, train positives, and rows in the index (-1 for items not on offer)."""

    ids: pa.Array
    counts: np.ndarray
    places: np.ndarray

    @classmethod
    def read(cls, folder: Path) -> ServedItems:
        """From items.parquet. Memory: the ids of the catalogue and 16 bytes an item."""
        import pyarrow.parquet as pq

        table = pq.read_table(folder / ITEMS)
        return cls(table.column(ITEM_ID).combine_chunks(), table.column(COUNT).to_numpy(), table.column(PLACE).to_numpy())

    @property
    def item_at(self) -> np.ndarray:
        """item_idx of every row of the index."""
        return np.flatnonzero(self.places >= 0)

    @property
    def popularity(self) -> np.ndarray:
        """(N,) train positives relative to the most popular item: the scores of the fallback."""
        return self.counts / max(int(self.counts.max(initial=1)), 1)

    def most_popular(self) -> np.ndarray:
        """item_idx of the items on offer, most popular first, ties in the same order as everywhere else."""
        offered = self.item_at
        tie = tie_order(torch.from_numpy(offered)).numpy()
        return np.asarray(offered[np.lexsort((-tie, -self.counts[offered]))])


def read_index(folder: Path) -> Any:
    """The faiss index of the folder."""
    import faiss

    return faiss.read_index(str(folder / INDEX))
