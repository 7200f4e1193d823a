"""The faiss index over item vectors: its type by the size of the catalogue, built on a GPU where faiss sees one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from esans.errors import ConfigError

if TYPE_CHECKING:
    from esans.export.config import IndexConfig

# faiss wants at least 39 training vectors a list and uses at most 256 of them.
_TRAINING_PER_LIST = 64
# A code of one byte names one of so many centroids.
_CENTROIDS = 256


def index_kind(config: IndexConfig, num_items: int) -> str:
    """flat, hnsw, ivf or ivfpq for a catalogue of this size."""
    if config.kind != "auto":
        return config.kind
    if num_items < config.hnsw_from:
        return "flat"
    if num_items < config.ivf_from:
        return "hnsw"
    return "ivf" if num_items < config.ivfpq_from else "ivfpq"


def build_index(vectors: np.ndarray, config: IndexConfig, seed: int) -> Any:
    """A faiss inner-product index of (n, d) float32 vectors on the CPU; its ids are row numbers.

    IVF and IVF-PQ train on at most 64 vectors a list, drawn with `seed`, and are trained and filled on the GPU where faiss sees one. HNSW
    is linked by the threads of the CPU, so two builds may differ in a few links.

    Raises:
        ConfigError: too few items for `ivfpq`.
    """
    import faiss

    size, dim = vectors.shape
    kind = index_kind(config, size)
    if kind == "flat":
        index: Any = faiss.IndexFlatIP(dim)
        index.add(vectors)
    elif kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, config.hnsw_links, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = config.hnsw_build
        index.add(vectors)
    else:
        index = _filled(_inverted(kind, size, dim, config, seed), vectors, seed, config.gpu)
        if kind == "ivfpq":
            index = _refined(index, vectors, config.pq_refine)
    use_setting(index, kind, setting_of(index, config, kind)[1])
    return index


def setting_of(index: Any, config: IndexConfig, kind: str) -> tuple[str, int, int]:
    """What the search is set by (efSearch, nprobe or nothing), the configured value, and the largest that makes sense."""
    if kind == "flat":
        return "", 0, 0
    if kind == "hnsw":
        return "efSearch", config.hnsw_search, max(int(index.ntotal), config.hnsw_search)
    lists = _lists(config, int(index.ntotal))
    return "nprobe", min(config.ivf_probes, lists), lists


def use_setting(index: Any, kind: str, value: int) -> None:
    """Set the search of an index that `build_index` gave; the index remembers it when written."""
    import faiss

    if kind != "flat":
        faiss.ParameterSpace().set_index_parameter(index, "efSearch" if kind == "hnsw" else "nprobe", value)


def _lists(config: IndexConfig, size: int) -> int:
    return min(config.ivf_lists or max(1, round(4 * math.sqrt(size))), size)


def _inverted(kind: str, size: int, dim: int, config: IndexConfig, seed: int) -> Any:
    # Empty and untrained.
    import faiss

    lists = _lists(config, size)
    coarse: Any = faiss.IndexFlatIP(dim)
    if kind == "ivf":
        index: Any = faiss.IndexIVFFlat(coarse, dim, lists, faiss.METRIC_INNER_PRODUCT)
    else:
        if size < _CENTROIDS:
            raise ConfigError(
                f"export.index.kind = 'ivfpq': codes need at least {_CENTROIDS} items to learn from, and {size:,} may be recommended. "
                "Take flat."
            )
        index = faiss.IndexIVFPQ(coarse, dim, lists, code_bytes(dim, config.pq_bytes), 8, faiss.METRIC_INNER_PRODUCT)
        index.pq.cp.seed = seed % 2**31
    coarse.this.disown()  # the coarse index must live as long as the lists, so they own it
    index.own_fields = True
    index.cp.seed = seed % 2**31
    return index


def code_bytes(dim: int, wanted: int) -> int:
    """The most bytes of a code, up to `wanted`, that cut `dim` into equal parts."""
    return next(part for part in range(min(wanted, dim), 0, -1) if dim % part == 0)


def _filled(index: Any, vectors: np.ndarray, seed: int, gpu: str) -> Any:
    import faiss

    size, wanted = len(vectors), max(index.nlist * _TRAINING_PER_LIST, _CENTROIDS * 39)
    chosen = np.random.default_rng(seed).choice(size, size=min(size, wanted), replace=False)
    training = vectors[np.sort(chosen)]
    if gpu == "auto" and faiss.get_num_gpus():
        resources = faiss.StandardGpuResources()
        on_gpu = faiss.index_cpu_to_gpu(resources, 0, index)
        on_gpu.train(training)
        on_gpu.add(vectors)
        return faiss.index_gpu_to_cpu(on_gpu)
    index.train(training)
    index.add(vectors)
    return index


def _refined(index: Any, vectors: np.ndarray, factor: int) -> Any:
    # The codes find factor * k candidates, and the exact vectors order them.
    import faiss

    exact: Any = faiss.IndexFlatIP(vectors.shape[1])
    exact.add(vectors)
    refined: Any = faiss.IndexRefine(index, exact)
    index.this.disown()
    exact.this.disown()
    refined.own_fields = refined.own_refine_index = True
    refined.k_factor = factor
    return refined
