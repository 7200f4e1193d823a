"""Evaluate bundles with users of our choosing, and the MLflow runs that wrote them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from mlflow import MlflowClient

from esans.bundle import Bundle, BundleWriter

FINISHED = {"code_version": 1, "inputs": {}}


def prepare_bundle(folder: Path, name: str, user_ids: Sequence[str], config: Mapping[str, Any]) -> Bundle:
    """A prepare bundle as far as a comparison reads it: users, and its configuration."""
    out = BundleWriter(str(folder / "prepare" / name), "prepare", name)
    out.write_arrow("users", pa.table({"user_idx": np.arange(len(user_ids)), "user_id": list(user_ids)}))
    return out.finish(**FINISHED, config=config)


def evaluated(
    folder: Path, method: str, prepare: Bundle, values: Mapping[int, float], train: Mapping[str, Any], seen: int = 7, seed: int = 0
) -> Bundle:
    """An evaluate bundle over a train bundle of these keys: {user_idx: recall@50}, its mrr half of that."""
    fitted = BundleWriter(str(folder / "train" / method), "train", f"{method}-train")
    fitted.state({"seed": seed})
    fitted.write_arrow("epochs", pa.table({"epoch": [0, 1], "loss": [2.0, 1.5], "recall_at_50": [0.1, 0.2]}))
    inputs = {"prepare": prepare.uri, "train": fitted.finish(**FINISHED, config=train).uri}
    out = BundleWriter(str(folder / "evaluate" / method), "evaluate", f"{method}-evaluate")
    recall = np.array(list(values.values()), dtype=float)
    size = len(recall)
    users = {"method": [method] * size, "split": ["test"] * size, "user_idx": list(values), "targets": np.full(size, 2, np.int32)}
    figures = {"seen": np.arange(size, dtype=np.int32) % 12 + seen - 7, "recall_at_50": recall, "mrr": recall / 2}
    out.write_arrow("per_user", pa.table({**users, **figures}))
    rows = []
    for name, place, label in (
        ("all", 0, "all"),
        ("history", 0, "0-4"),
        ("history", 1, "5+"),
        ("popularity", 0, "cold"),
        ("popularity", 1, "1-9"),
    ):
        row = {"method": method, "split": "test", "slice": name, "place": place, "label": label, "users": size, "targets": 2 * size}
        rows += [{**row, "metric": metric, "value": recall.mean(), "standard_error": 0.01} for metric in ("recall@50", "mrr")]
    out.write_arrow("metrics", pa.Table.from_pylist(rows))
    return out.finish(code_version=1, config={"user_batch": 4}, inputs=inputs)


def logged(client: MlflowClient, bundle: Bundle, name: str, parent: str | None = None, **tags: str) -> str:
    """A finished run that wrote the bundle; its id."""
    experiment = client.get_experiment_by_name("esans") or client.get_experiment(client.create_experiment("esans"))
    tags = {"stage": bundle.manifest["stage"], "bundle": bundle.uri} | ({"mlflow.parentRunId": parent} if parent else {}) | tags
    run = client.create_run(experiment.experiment_id, tags=tags, run_name=name)
    for source, uri in bundle.manifest["inputs"].items():
        client.log_param(run.info.run_id, f"input.{source}", uri)
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)
