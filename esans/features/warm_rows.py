"""LightGCN's item table started from an earlier one: known items where they were, new ones among their neighbours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from esans.features.adjacency import Adjacency

if TYPE_CHECKING:
    from esans.features.item_table import ItemTable

ROW, SQUARES = "row", "squares"


def start_from(table: ItemTable, graph: Adjacency, batches: Iterable[pa.RecordBatch]) -> int:
    """Put earlier rows and their accumulated squares in place, and new items at the mean of their known neighbours, by weight.

    A new item without a known neighbour stays as it was drawn.

    Args:
        table: drawn, (N, d).
        graph: of today, N items.
        batches: item_idx, row, squares of the earlier table.

    Returns:
        How many items were started.
    """
    known = np.zeros(graph.num_items, bool)
    for batch in batches:
        item, rows, squares = (batch.column(place) for place in range(3))
        place = item.to_numpy()
        table.weight[place] = rows.flatten().to_numpy(zero_copy_only=False).reshape(len(place), -1)
        table.squares[place] = squares.to_numpy(zero_copy_only=False)
        known[place] = True
    placed = 0
    for start, stop in graph.slices():
        row, neighbour, weight = graph.edges(start, stop)
        told = ~known[row] & known[neighbour]
        new, which = np.unique(row[told], return_inverse=True)
        if not len(new):
            continue
        sums = np.zeros((len(new), table.weight.shape[1]))
        np.add.at(sums, which, table.weight[neighbour[told]] * weight[told][:, None])
        table.weight[new] = sums / np.bincount(which, weights=weight[told])[:, None]
        placed += len(new)
    return int(known.sum()) + placed
