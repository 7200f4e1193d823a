"""The faiss index over item vectors: its type by the size of the catalogue, and what it loses against exact search."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from esans.retrieval.topk import exact_topk

if TYPE_CHECKING:
    from esans.export.config import IndexConfig

# faiss wants at least 39 training vectors a list and uses at most 256 of them.
_TRAINING_PER_LIST = 64


@dataclass(frozen=True)
class Quality:
    """Overlap of the index with exact search, and queries per second of one batch on this machine's threads."""

    recall: float
    queries_per_second: float


def index_kind(config: IndexConfig, num_items: int) -> str:
    """flat, hnsw or ivf for a catalogue of this size."""
    if config.kind != "auto":
        return config.kind
    return "flat" if num_items < config.hnsw_from else "hnsw" if num_items < config.ivf_from else "ivf"


def build_index(vectors: np.ndarray, config: IndexConfig, seed: int) -> Any:
    """A faiss inner-product index of (n, d) float32 vectors; its ids are row numbers.

    IVF trains on at most 64 vectors a list, drawn with `seed`. HNSW is linked by several threads, so two builds may differ in a few links.
    """
    import faiss

    size, dim = vectors.shape
    kind = index_kind(config, size)
    index: Any
    if kind == "flat":
        index = faiss.IndexFlatIP(dim)
    elif kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, config.hnsw_links, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = config.hnsw_build, config.hnsw_search
    else:
        lists = min(config.ivf_lists or max(1, round(4 * math.sqrt(size))), size)
        coarse: Any = faiss.IndexFlatIP(dim)
        index = faiss.IndexIVFFlat(coarse, dim, lists, faiss.METRIC_INNER_PRODUCT)
        coarse.this.disown()  # the coarse index must live as long as the lists, so they own it
        index.own_fields = True
        index.cp.seed, index.nprobe = seed % 2**31, min(config.ivf_probes, lists)
        chosen = np.random.default_rng(seed).choice(size, size=min(size, lists * _TRAINING_PER_LIST), replace=False)
        index.train(vectors[np.sort(chosen)])
    index.add(vectors)
    return index


def measure_index(index: Any, queries: Tensor, vectors: Tensor, k: int) -> Quality:
    """Share of the exact first `k` that the index returns for (q, d) queries, and its speed.

    Items whose score equals the exact k-th best count as found: which of several equal items comes last is no loss.
    """
    k = min(k, len(vectors))
    exact_scores, _ = exact_topk(queries, vectors, k)
    asked = np.ascontiguousarray(queries.cpu().numpy())
    index.search(asked[:1], k)  # the first call allocates
    started = time.perf_counter()
    scores, ids = index.search(asked, k)
    seconds = time.perf_counter() - started
    worst = exact_scores[:, -1:].cpu().numpy() - 1e-5
    found = ((scores >= worst) & (ids >= 0)).sum(1)
    return Quality(float(found.mean() / k), len(asked) / max(seconds, 1e-9))
