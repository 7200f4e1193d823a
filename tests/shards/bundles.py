"""Prepare and cluster bundles made by hand for the shards stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from esans import columns as c
from esans.bundle import Bundle
from esans.negatives.tables import ClusterTables
from tests.features.helpers import write_bundle


def cluster_bundle(folder: Path, tables: ClusterTables) -> Bundle:
    """What the cluster stage would have written for these tables."""
    primaries, cells = len(tables.primary_count_P), tables.cell_primary_S.tolist()
    members = {c.POSITION: np.arange(len(tables.members_M)), c.ITEM_IDX: tables.members_M.numpy()}
    cell_columns = {
        c.PRIMARY: tables.cell_primary_S.int().numpy(),
        c.SECONDARY: np.array([cells[:place].count(primary) for place, primary in enumerate(cells)], np.int32),
        c.OFFSET: tables.cell_offset_S.numpy(),
        c.COUNT: tables.cell_count_S.numpy(),
        c.FALLBACK: tables.cell_fallback_S.int().numpy(),
    }
    primary_columns = {
        c.PRIMARY: np.arange(primaries, dtype=np.int32),
        c.OFFSET: tables.primary_offset_P.numpy(),
        c.COUNT: tables.primary_count_P.numpy(),
        c.CENTROID: list(tables.centroids_PD.numpy()),
    }
    transitions = {c.PRIMARY: np.arange(primaries, dtype=np.int32), c.PROBABILITIES: list(tables.transitions_PP.numpy())}
    found = {"members": members, "cells": cell_columns, "primaries": primary_columns, "transitions": transitions}
    facts = {"num_items": len(tables.item_cell_N), "num_primary": primaries}
    return write_bundle(folder, "cluster", {name: pa.table(columns) for name, columns in found.items()}, facts)


def prepare_bundle(
    folder: Path, positives: list[tuple[int, int, int, str]], exposures: list[tuple[int, int, int]] | None, num_items: int
) -> Bundle:
    """`positives`: (user, item, time, split) in time order; `exposures`: (user, item, time), None where none were kept."""
    users, items, times, splits = zip(*positives, strict=True)
    position = [sum(1 for other in users[:place] if other == user) for place, user in enumerate(users)]
    rows = {
        c.USER_IDX: pa.array(users, pa.int64()),
        c.ITEM_IDX: pa.array(items, pa.int64()),
        c.TIMESTAMP: pa.array(times, pa.int64()),
        c.WEIGHT: pa.array([1.0] * len(users), pa.float32()),
        c.POSITION: pa.array(position, pa.int32()),
        c.SPLIT: pa.array(splits),
    }
    tables = {"interactions": pa.table(rows)}
    if exposures is not None:
        columns = list(zip(*exposures, strict=True)) or [[], [], []]
        names = (c.USER_IDX, c.ITEM_IDX, c.TIMESTAMP)
        tables["exposures"] = pa.table({name: pa.array(values, pa.int64()) for name, values in zip(names, columns, strict=True)})
    train = sum(split == c.TRAIN for split in splits)
    return write_bundle(folder, "prepare", tables, {"num_items": num_items, "num_users": max(users) + 1, "num_train": train})
