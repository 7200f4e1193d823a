"""Features bundles made of noise: items in natural clusters, seen through one random matrix per modality."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from esans.bundle import Bundle, BundleWriter


def unit(n: int, d: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def turned(rows: np.ndarray, d: int, seed: int, noise: float = 0.0) -> np.ndarray:
    """The same items seen through a random matrix."""
    random = np.random.default_rng(seed)
    seen = rows @ random.standard_normal((rows.shape[1], d)).astype(np.float32)
    seen += noise * random.standard_normal(seen.shape).astype(np.float32)
    return seen / np.linalg.norm(seen, axis=1, keepdims=True)


def clustered(n: int, d: int, k: int, seed: int, spread: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    """(n, d) items around k centres, and the (n,) centre of each."""
    random = np.random.default_rng(seed)
    label = random.integers(k, size=n)
    around = random.standard_normal((n, d)).astype(np.float32)
    return random.standard_normal((k, d)).astype(np.float32)[label] + spread * around, label


def features(
    folder: Path,
    modalities: Mapping[str, np.ndarray],
    coverage: Mapping[str, np.ndarray] | None = None,
    num_items: int | None = None,
    files: int = 1,
) -> Bundle:
    """`modalities`: name -> (n, d) array; `coverage`: name -> (n,) bool; `files` of unequal sizes."""
    n = len(next(iter(modalities.values())))
    columns: dict[str, Any] = {"item_idx": pa.array(range(n), pa.int64())}
    for name, vectors in modalities.items():
        keep = (coverage or {}).get(name, np.ones(n, bool))
        columns[name] = pa.array([row.tolist() if some else None for row, some in zip(vectors, keep, strict=True)], pa.list_(pa.float32()))
    out = BundleWriter(f"file://{folder}/features-{len(list(folder.iterdir()))}", "features", "test")
    path = Path(out.data_uri.removeprefix("file://")) / "vectors"
    path.mkdir(parents=True)
    table = pa.table(columns)
    cuts = [0, *np.sort(np.random.default_rng(1).choice(np.arange(1, n), files - 1, replace=False)).tolist(), n]
    for place, (start, stop) in enumerate(pairwise(cuts)):
        pq.write_table(table.slice(start, stop - start), path / f"part-{place:05d}.parquet")
    out.adopt("vectors")
    out.state({"num_items": num_items or n, "modalities": {name: vectors.shape[1] for name, vectors in modalities.items()}, "side": {}})
    return out.finish(code_version=1, config={}, inputs={})


def dense(bundle: Bundle, column: str) -> np.ndarray:
    """A list column of the aligned vectors, by item."""
    return np.array(bundle.table("vectors").arrow().sort_by("item_idx").column(column).to_pylist(), np.float32)


def codebook(bundle: Bundle, level: str) -> np.ndarray:
    return np.array(bundle.table(f"codebook_{level}").arrow().column("centroid").to_pylist(), np.float32)


def shared_information(left: np.ndarray, right: np.ndarray) -> float:
    """Normalised mutual information of two labellings (arithmetic mean)."""
    joint = np.zeros((left.max() + 1, right.max() + 1))
    np.add.at(joint, (left, right), 1 / len(left))
    rows, columns = joint.sum(1), joint.sum(0)

    def entropy(p: np.ndarray) -> float:
        return float(-(p[p > 0] * np.log(p[p > 0])).sum())

    mutual = entropy(rows) + entropy(columns) - entropy(joint.ravel())
    return 2 * mutual / (entropy(rows) + entropy(columns))
