"""What a finished pipeline took: bytes of every table and file, seconds of every stage, counts of what went through."""

from __future__ import annotations

import json
import posixpath
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec
import numpy as np

from esans.bundle import Bundle
from esans.flow import METHOD_STAGES, STAGES, Plan
from esans.plan.sizes import Sizes, negatives_of, sizes_of
from esans.settings import Source

_EPOCH_TIME = ("epoch", "seconds", "examples_per_second")


def measure(source: Source, methods: list[str], interactions: int) -> dict[str, Any]:
    """Read the bundles of a finished pipeline.

    Args:
        source: the settings it ran under.
        methods: the methods it trained.
        interactions: rows of the raw table.

    Returns:
        JSON values: sizes, configuration, and by stage (by stage and method from train on) bytes of its parts and seconds.

    Raises:
        BundleError: a stage is not finished.
    """
    stages: dict[str, Any] = {}
    for method in methods:
        plan = Plan(source.load(method))
        for name in STAGES:
            key = f"{name}.{method}" if name in METHOD_STAGES else name
            if key not in stages:
                stages[key] = _stage(Bundle.open(plan.stage(name).uri))
    facts = {name: stages[name]["facts"] for name in ("prepare", "shards")}
    settings = source.load(methods[0])
    return {
        "users": facts["prepare"]["num_users"],
        "items": facts["prepare"]["num_items"],
        "interactions": interactions,
        "examples": facts["shards"]["num_examples"],
        "test_users": facts["prepare"]["num_test_users"],
        "activity_spread": _spread(Bundle.open(Plan(settings).stage("shards").uri)),
        "stages": stages,
        "negatives": {method: negatives_of(source.load(method)) for method in methods},
        "files": list(source.files),
        "overrides": list(source.overrides),
        "methods": methods,
        "dims": [_dim(Bundle.open(Plan(settings).stage("features").uri), name) for name in ("text", "image")],
    }


def planned(measured: Mapping[str, Any]) -> tuple[Sizes, Mapping[str, Any]]:
    """The sizes of a run as a plan sees them, under the configuration that it ran with, beside what it took."""
    settings = Source(tuple(measured["files"]), tuple(measured["overrides"])).load(measured["methods"][0])
    vectors = measured["negatives"].values()
    counts = (measured["users"], measured["items"], measured["interactions"])
    return sizes_of(settings, *counts, *measured["dims"], negatives=sum(vectors) / len(vectors)), measured


def _spread(shards: Bundle) -> float:
    """How much more active than the mean user an example's user is: E[n^2] / E[n]^2 over the users' examples."""
    users = shards.table("examples").arrow(["user_idx"]).column(0).to_numpy()
    counts = np.bincount(users)
    counts = counts[counts > 0]
    return float((counts**2).mean() / counts.mean() ** 2)


def _dim(features: Bundle, modality: str) -> int:
    """Floats of a modality's vectors; 0 where there are none."""
    table = features.table("vectors")
    if modality not in table.dataset().schema.names:
        return 0
    batch = next(batch for batch in table.batches([modality]) if batch.num_rows > batch.column(0).null_count)
    return len(next(value for value in batch.column(0).to_pylist() if value is not None))


def _stage(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    epochs = bundle.table("epochs").arrow(list(_EPOCH_TIME)).to_pylist() if bundle.has("epochs") else []
    plain = {name: value for name, value in bundle.facts.items() if isinstance(value, int | float | list)}
    return {"bytes": _bytes(bundle), "seconds": manifest["seconds"], "facts": plain, "epochs": epochs, "config": manifest["config"]}


def _bytes(bundle: Bundle) -> dict[str, int]:
    """Bytes by table, by top folder or file of the attempt, and of what lies beside the attempt (checkpoints)."""
    filesystem, root = fsspec.core.url_to_fs(bundle.uri)
    found: dict[str, int] = defaultdict(int)
    for path, info in filesystem.find(root, detail=True).items():
        parts = posixpath.relpath(path, root).split("/")
        if parts[0] == bundle.manifest["attempt"]:
            found[parts[1]] += info["size"]
        elif len(parts) > 1:
            found[parts[0]] += info["size"]
    return dict(found)


def save(path: Path, measured: dict[str, Any]) -> None:
    """Keep what was measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(measured, indent=1) + "\n")
