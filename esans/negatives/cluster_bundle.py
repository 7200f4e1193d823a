"""The cluster tables as the cluster stage wrote them, as tensors."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from esans import columns as c
from esans.bundle import Bundle
from esans.negatives.tables import ClusterTables


def load_clusters(cluster: Bundle) -> ClusterTables:
    """The cluster tables as tensors, on the CPU."""
    num_items, primaries = cluster.facts["num_items"], cluster.facts["num_primary"]
    members = cluster.table("members")
    cells = cluster.table("cells").arrow().sort_by(c.OFFSET)
    table = cluster.table("primaries")
    cell_offset = torch.from_numpy(cells[c.OFFSET].to_numpy().astype(np.int64))
    members_M = torch.from_numpy(members.dense("position", c.ITEM_IDX, members.rows, dtype=np.int64))
    cell_count = torch.from_numpy(cells[c.COUNT].to_numpy().astype(np.int64))
    item_cell = torch.full((num_items,), -1, dtype=torch.int64)
    item_cell[members_M] = torch.repeat_interleave(torch.arange(len(cell_count)), cell_count)
    cell_primary = torch.from_numpy(cells[c.PRIMARY].to_numpy().astype(np.int64))
    item_primary = torch.where(item_cell >= 0, cell_primary[item_cell.clamp_min(0)], -1)

    def primary(column: str, dtype: type) -> Tensor:
        return torch.from_numpy(table.dense(c.PRIMARY, column, primaries, dtype=dtype))

    transitions = cluster.table("transitions").dense(c.PRIMARY, c.PROBABILITIES, primaries)
    return ClusterTables(
        members_M=members_M,
        item_primary_N=item_primary,
        item_cell_N=item_cell,
        cell_offset_S=cell_offset,
        cell_count_S=cell_count,
        cell_primary_S=cell_primary,
        cell_fallback_S=torch.from_numpy(cells[c.FALLBACK].to_numpy().astype(np.int64)),
        primary_offset_P=primary(c.OFFSET, np.int64),
        primary_count_P=primary(c.COUNT, np.int64),
        centroids_PD=primary(c.CENTROID, np.float32),
        transitions_PP=torch.from_numpy(transitions),
    )
