"""A small prepare bundle, a stand-in for a trained model, and a run that keeps what it is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from esans.bundle import Bundle, BundleWriter
from esans.spark import SparkConfig
from esans.stage import StageContext
from esans.tracking import TrackingConfig

LISTS = pa.list_(pa.int64())


def write_prepare(folder: Path, users: dict[int, dict[str, Any]], num_items: int, unavailable: tuple[int, ...] = ()) -> Bundle:
    """A prepare bundle of users given as {user_idx: {"train": [...], "validation": [...], "test": [...]}} in time order."""
    out = BundleWriter(str(folder / "prepare" / "x"), "prepare", "x")
    index = np.arange(num_items)
    ids, available = [f"item-{i}" for i in index], ~np.isin(index, unavailable)
    out.write_arrow("items", pa.table({"item_idx": index, "item_id": ids, "available": available}))
    out.write_arrow("users", pa.table({"user_idx": sorted(users), "user_id": [f"user-{user}" for user in sorted(users)]}))
    events, histories = [], []
    for user, parts in users.items():
        before: list[int] = []
        for split in ("train", "validation", "test"):
            items = list(parts.get(split, []))
            if split != "train" and items and before:
                histories.append({"user_idx": user, "split": split, "history": before[-20:], "targets": items, "seen": sorted(set(before))})
            events += [{"user_idx": user, "item_idx": item, "timestamp": len(before) + i, "split": split} for i, item in enumerate(items)]
            before = before + items
        histories.append({"user_idx": user, "split": "serve", "history": before[-20:], "targets": [], "seen": sorted(set(before))})
    out.write_arrow("interactions", pa.Table.from_pylist(events))
    types = [("user_idx", pa.int64()), ("split", pa.string()), ("history", LISTS), ("targets", LISTS), ("seen", LISTS)]
    out.write_arrow("histories", pa.Table.from_pylist(histories, schema=pa.schema(types)))
    train = [event["item_idx"] for event in events if event["split"] == "train"]
    counts = np.bincount(np.array(train, dtype=int), minlength=num_items)
    out.write_arrow("popularity", pa.table({"item_idx": index, "count": counts}))
    facts = {"num_items": num_items, "num_users": max(users) + 1, "num_train": len(train)}
    facts |= {f"num_{split}_users": sum(row["split"] == split for row in histories) for split in ("validation", "test")}
    out.state(facts)
    return out.finish(code_version=1, config={}, inputs={})


def random_users(seed: int, users: int, items: int) -> dict[int, dict[str, Any]]:
    """Users whose items cluster, so that neighbours mean something."""
    rng = np.random.default_rng(seed)
    result = {}
    for user in range(users):
        home = rng.integers(0, 4)
        pool = np.concatenate([np.arange(home, items, 4), rng.choice(items, size=items // 8, replace=False)])
        mine = rng.permutation(np.unique(pool))[: rng.integers(6, 14)].tolist()
        result[user] = {"train": mine[:-3], "validation": mine[-3:-2], "test": mine[-2:]}
    return result


class Stub(torch.nn.Module):
    """Two towers with the interface of the real ones: a user is the mean of its history's vectors."""

    def __init__(self, num_items: int, dim: int = 8, history_length: int = 6) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.vectors = torch.nn.functional.normalize(torch.randn(num_items, dim, generator=generator), dim=1)
        self.dim, self.num_items, self.num_users, self.history_length = dim, num_items, 1 << 40, history_length

    def encode_items(self, item_idx: torch.Tensor) -> torch.Tensor:
        return self.vectors[item_idx]

    def encode_users(self, history: torch.Tensor, user_idx: torch.Tensor | None = None) -> torch.Tensor:
        weights = (history >= 0).float()
        summed = (self.vectors[history.clamp_min(0)] * weights[..., None]).sum(1) + 1e-3
        return torch.nn.functional.normalize(summed, dim=1)


@dataclass
class RecordingRun:
    """An MLflow run that keeps its calls."""

    figures: dict[str, Any] = field(default_factory=dict)
    logged: dict[str, Any] = field(default_factory=dict)
    run_id: str = "run"
    tracking_uri: str = ""

    def figure(self, figure: Any, path: str) -> None:
        self.figures[path] = figure

    def params(self, values: dict[str, Any]) -> None:
        self.logged.update(values)

    def metrics(self, values: dict[str, float], step: int = 0) -> None:
        self.logged.update(values)

    def tag(self, **tags: str) -> None:
        self.logged.update(tags)

    def text(self, text: str, path: str) -> None:
        self.figures[path] = text


def context(work_dir: Path, run: Any = None, method: str = "stub") -> StageContext:
    """The context of a stage that needs no Spark."""
    return StageContext(0, str(work_dir), SparkConfig(), TrackingConfig(), run or RecordingRun(), method)
