"""Small bundles made by hand, and stages run on them without the flow around."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from esans.bundle import Bundle, BundleWriter
from esans.config import build
from esans.settings import Settings
from esans.spark import SparkConfig
from esans.stage import Stage, StageContext
from esans.tracking import TrackingConfig


class RecordingRun:
    """Stands in for an MLflow run and remembers what it was given; workers find nothing to attach to."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.figures: list[str] = []
        self.texts: dict[str, str] = {}
        self.run_id = "recorded"
        self.tracking_uri = ""

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        self.logged.append((step, dict(values)))

    def figure(self, figure: Any, path: str) -> None:
        figure.savefig(Path("/dev/null"), format="png")
        self.figures.append(path)

    def text(self, text: str, path: str) -> None:
        self.texts[path] = text


def run_stage(cls: type[Stage], folder: Path, inputs: Mapping[str, Bundle], seed: int = 0, **section: Any) -> Bundle:
    """Run one stage into a new bundle below `folder`."""
    config = getattr(build(Settings, {cls.name: section}), cls.name)
    spark = SparkConfig(master="local[2]", driver_memory="2g", shuffle_partitions=2)
    context = StageContext(seed, str(folder), spark, TrackingConfig(), RecordingRun())  # type: ignore[arg-type]
    out = BundleWriter(f"file://{folder}/{cls.name}-{len(list(folder.iterdir()))}", cls.name, "test")
    cls(config, context).run(inputs, out)
    return out.finish(code_version=cls.code_version, config={}, inputs={})


def write_bundle(folder: Path, stage: str, tables: Mapping[str, pa.Table], facts: Mapping[str, Any]) -> Bundle:
    """A finished bundle of these tables."""
    out = BundleWriter(f"file://{folder}/{stage}-{len(list(folder.iterdir()))}", stage, "test")
    for name, table in tables.items():
        out.write_arrow(name, table)
    out.state(facts)
    return out.finish(code_version=1, config={}, inputs={})


def interactions(rows: list[tuple[int, int, int, str]]) -> pa.Table:
    """(user, item, day, split) rows, in each user's order."""
    seen: dict[int, int] = {}
    position = [seen.__setitem__(user, seen.get(user, -1) + 1) or seen[user] for user, *_ in rows]
    return pa.table(
        {
            "user_idx": pa.array([row[0] for row in rows], pa.int64()),
            "item_idx": pa.array([row[1] for row in rows], pa.int64()),
            "timestamp": pa.array([row[2] * 86_400 for row in rows], pa.int64()),
            "weight": pa.array([1.0] * len(rows), pa.float32()),
            "position": pa.array(position, pa.int32()),
            "split": pa.array([row[3] for row in rows], pa.string()),
        }
    )


def shop(num_items: int, num_users: int, seed: int = 0, groups: int = 5) -> tuple[pa.Table, pa.Table]:
    """Items named after their group and users who stay in one, so that text and behaviour say the same."""
    random = np.random.default_rng(seed)
    group = np.arange(num_items) % groups
    words = [f"thing kind{group[item]} colour{random.integers(4)} shape{group[item]}x{random.integers(3)}" for item in range(num_items)]
    items = pa.table(
        {
            "item_idx": pa.array(np.arange(num_items)),
            "item_id": [f"i{item}" for item in range(num_items)],
            "available": [True] * num_items,
            "title": words,
            "side_kind": [f"kind{g}" for g in group],
        }
    )
    rows = []
    for user in range(num_users):
        own = np.flatnonzero(group == user % groups)
        basket = random.choice(own, size=min(12, len(own)), replace=False)
        rows += [(user, int(item), day, "train" if day < 10 else "test") for day, item in enumerate(basket)]
    return items, interactions(rows)


def prepare(folder: Path, items: pa.Table, events: pa.Table, side: Mapping[str, str] | None = None) -> Bundle:
    """A prepare bundle with the tables that features and cluster read."""
    train = events.filter(pa.compute.equal(events.column("split"), "train")).column("item_idx").to_numpy()
    popularity = pa.table({"item_idx": np.arange(items.num_rows), "count": np.bincount(train, minlength=items.num_rows)})
    tables = {"items": items, "interactions": events, "popularity": popularity}
    return write_bundle(folder, "prepare", tables, {"num_items": items.num_rows, "side": dict(side or {})})
