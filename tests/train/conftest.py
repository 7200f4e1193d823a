"""Small bundles for the train stage, written without Spark: 60 items or more in 5 primaries, 40 users who stay in one of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from esans import columns as c
from esans.bundle import Bundle, BundleWriter

ITEMS, USERS, PRIMARIES, HISTORY, DIM = 60, 40, 5, 6, 8


def writer(folder: Path, stage: str) -> BundleWriter:
    return BundleWriter(str(folder / stage / "0"), stage, "0")


def finish(out: BundleWriter) -> Bundle:
    return out.finish(code_version=1, config={}, inputs={})


def padded(rows: list[list[int]], width: int) -> pa.Array:
    full = [[c.PADDING] * (width - len(row[-width:])) + row[-width:] for row in rows]
    return pa.array(full, pa.list_(pa.int32()))


def prepare_bundle(folder: Path, validation: list[tuple[int, list[int], list[int]]], items: int = ITEMS, users: int = USERS) -> Bundle:
    """`validation`: (user, history, targets)."""
    out = writer(folder, "prepare")
    out.write_arrow("items", pa.table({c.ITEM_IDX: np.arange(items), c.AVAILABLE: np.arange(items) != items - 1}))
    lists = {
        name: pa.array([row[place] for row in validation], pa.list_(pa.int64()))
        for name, place in ((c.HISTORY, 1), (c.TARGETS, 2), (c.SEEN, 1))
    }
    who = {c.USER_IDX: [row[0] for row in validation], c.SPLIT: [c.VALIDATION] * len(validation)}
    out.write_arrow("histories", pa.table(who | lists))
    sizes = {(ITEMS, USERS): 0, (items, users): 0}
    out.state({"num_items": items, "num_users": users, "num_validation_users": len(validation)})
    out.state({"id_maps": [{"items": n, "users": m, "digest": f"{n}-{m}"} for n, m in sizes]})
    return finish(out)


def shards_bundle(
    folder: Path,
    events: list[tuple[int, list[int], int]],
    known: dict[int, list[int]],
    files: int,
    items: int = ITEMS,
    users: int = USERS,
) -> Bundle:
    """`events`: (user, history, target), dealt over files of unequal size."""
    out = writer(folder, "shards")
    cuts = np.sort(np.random.default_rng(1).choice(np.arange(1, len(events)), files - 1, replace=False))
    for place, part in enumerate(np.split(np.arange(len(events)), cuts)):
        rows = [events[row] for row in part]
        table = pa.table(
            {
                c.USER_IDX: pa.array([row[0] for row in rows], pa.int64()),
                c.TARGET: pa.array([row[2] for row in rows], pa.int64()),
                c.HISTORY: padded([row[1] for row in rows], HISTORY),
                c.TIMESTAMP: pa.array([1] * len(rows), pa.int64()),
                c.WEIGHT: pa.array([1.0] * len(rows), pa.float32()),
                c.KNOWN: padded([sorted(known[row[0]]) for row in rows], 12),
            }
        )
        path = Path(out.data_uri.removeprefix("file://")) / "examples"
        path.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path / f"part-{place:05d}.parquet")
    out.adopt("examples")
    counts = np.bincount([row[2] for row in events], minlength=items)
    out.write_arrow("target_counts", pa.table({c.ITEM_IDX: np.arange(items), c.COUNT: counts}))
    out.state({"num_items": items, "num_users": users, "num_examples": len(events), "history_length": HISTORY, "known_size": 12})
    return finish(out)


def cluster_bundle(folder: Path, items: int = ITEMS) -> Bundle:
    out = writer(folder, "cluster")
    size = items // PRIMARIES
    out.write_arrow("members", pa.table({"position": np.arange(items), c.ITEM_IDX: np.arange(items)}))
    own = np.arange(items) // size
    out.write_arrow("codes", pa.table({c.ITEM_IDX: np.arange(items), c.PRIMARY: own, c.SECONDARY: np.arange(items) % size // (size // 2)}))
    cells = [(place // 2, place % 2, place * size // 2, size // 2, c.UNASSIGNED) for place in range(2 * PRIMARIES)]
    out.write_arrow(
        "cells",
        pa.table(dict(zip((c.PRIMARY, c.SECONDARY, c.OFFSET, c.COUNT, c.FALLBACK), map(list, zip(*cells, strict=True)), strict=True))),
    )
    centroids = np.random.default_rng(0).normal(size=(PRIMARIES, DIM)).astype(np.float32)
    out.write_arrow(
        "primaries",
        pa.table(
            {
                c.PRIMARY: np.arange(PRIMARIES),
                c.OFFSET: np.arange(PRIMARIES) * size,
                c.COUNT: [size] * PRIMARIES,
                c.CENTROID: list(centroids),
            }
        ),
    )
    transitions = np.full((PRIMARIES, PRIMARIES), 1 / (PRIMARIES - 1), np.float32)
    np.fill_diagonal(transitions, 0)
    out.write_arrow("transitions", pa.table({c.PRIMARY: np.arange(PRIMARIES), c.PROBABILITIES: list(transitions)}))
    out.state({"num_items": items, "num_primary": PRIMARIES, "num_secondary": 2})
    return finish(out)


def align_and_features(folder: Path, items: int = ITEMS, space: str = "one") -> tuple[Bundle, Bundle]:
    align, features = writer(folder, "align"), writer(folder, "features")
    vectors = np.random.default_rng(2).normal(size=(items, DIM)).astype(np.float32)
    align.write_arrow("vectors", pa.table({c.ITEM_IDX: np.arange(items), "text": list(vectors), "behaviour": list(vectors[::-1])}))
    align.state({"num_items": items, "modalities": ["text", "behaviour"], "dim": DIM, "space": space})
    features.write_arrow("side", pa.table({c.ITEM_IDX: np.arange(items), "side_price": (np.arange(items) % 4).astype(np.int32)}))
    features.state({"num_items": items, "side": {"price": 4}, "spaces": {"side": "codes"}})
    return finish(align), finish(features)


@pytest.fixture
def make_inputs(tmp_path: Path) -> Callable[..., dict[str, Bundle]]:
    """Bundles for a given number of examples; users draw from their own primary, so there is something to learn."""

    def make(
        examples: int = 403,
        files: int = 7,
        items: int = ITEMS,
        users: int = USERS,
        folder: Path = tmp_path,
        space: str = "one",
        tested: bool = True,
        **_: Any,
    ) -> dict[str, Bundle]:
        random = np.random.default_rng(0)
        size = items // PRIMARIES
        known: dict[int, list[int]] = {}
        events, validation = [], []
        for user in range(users):
            own = (user % PRIMARIES) * size + random.permutation(size)
            known[user] = [int(item) for item in own[:-2]]
            validation.append((user, known[user], [int(own[-2])]))
        while len(events) < examples:
            user = int(random.integers(users))
            place = int(random.integers(1, len(known[user])))
            events.append((user, known[user][:place], known[user][place]))
        align, features = align_and_features(folder, items, space)
        return {
            "prepare": prepare_bundle(folder, validation if tested else [], items, users),
            "features": features,
            "align": align,
            "cluster": cluster_bundle(folder, items),
            "shards": shards_bundle(folder, events, known, files, items, users),
        }

    return make
