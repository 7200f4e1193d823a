"""What a worker reads besides the shards: content, side codes, draw probabilities, cluster tables."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor

from esans import columns as c
from esans.bundle import Bundle
from esans.model.config import ModelConfig
from esans.model.meta import materialise, without_memory
from esans.model.sharded import shard_tables
from esans.model.towers import BIG_TABLES, TwoTower
from esans.negatives.cluster_bundle import load_clusters
from esans.negatives.tables import Catalogue


def build_model(config: ModelConfig, inputs: Mapping[str, Bundle], device: torch.device) -> TwoTower:
    """The untrained towers on `device`, with their frozen content and side codes in place; weights by torch's generator."""
    content = content_vectors(inputs["align"]) if config.content else None
    side, sizes = side_codes(inputs["features"]) if config.side else (None, [])
    shards = inputs["shards"].facts
    content_dim = 0 if content is None else content.shape[1]
    known = {name: shards[name] for name in ("num_items", "num_users", "history_length")}
    model = without_memory(config, **known, content_dim=content_dim, side_sizes=sizes)
    if config.tables == "sharded":
        shard_tables(model, BIG_TABLES, device)
    materialise(model, device, content, side)
    return model


def content_vectors(align: Bundle) -> Tensor:
    """Aligned modalities side by side: (N, M * d_a) float32; zeros for items without any modality, which have only their id."""
    num_items, table = align.facts["num_items"], align.table("vectors")
    parts = [table.dense(c.ITEM_IDX, modality, num_items) for modality in align.facts["modalities"]]
    return torch.from_numpy(np.concatenate(parts, axis=1))


def side_codes(features: Bundle) -> tuple[Tensor | None, list[int]]:
    """Codes of the side columns (N, S) int64 and the number of codes of each."""
    sizes: Mapping[str, int] = features.facts.get("side", {})
    if not sizes:
        return None, []
    table, num_items = features.table("side"), features.facts["num_items"]
    codes = [table.dense(c.ITEM_IDX, c.SIDE_PREFIX + name, num_items, dtype=np.int64) for name in sizes]
    return torch.from_numpy(np.stack(codes, axis=1)), list(sizes.values())


def side_columns(features: Bundle) -> dict[str, Tensor]:
    """Codes of each side column, (N,) int64 by name."""
    codes_NS, _ = side_codes(features)
    return {} if codes_NS is None else dict(zip(features.facts["side"], codes_NS.unbind(1), strict=True))


def load_catalogue(shards: Bundle, cluster: Bundle | None, features: Bundle | None = None, dim: int = 0) -> Catalogue:
    """What samplers know about the items, on the CPU; `dim` is that of the item vectors."""
    facts, num_items = shards.facts, shards.facts["num_items"]
    counts = torch.from_numpy(shards.table("target_counts").dense(c.ITEM_IDX, c.COUNT, num_items, dtype=np.float64))
    probability = (counts / counts.sum()).float()
    clusters = load_clusters(cluster) if cluster is not None else None
    columns = {name: tuple(shape) for name, shape in facts.get("columns", {}).items()}
    side = side_columns(features) if features is not None else {}
    neighbours = partial(nearest_items, features) if features is not None else None
    return Catalogue(num_items, probability, clusters, facts["num_users"], facts["num_examples"], columns, dim, side, neighbours)


def nearest_items(features: Bundle, count: int) -> Tensor:
    """The `count` items of highest score in the item graph, for each item: (N, count) int64, best first, padded with -1."""
    edges = features.table("graph").arrow([c.ITEM_IDX, c.NEIGHBOUR_IDX, c.SCORE])
    item, neighbour, score = (np.asarray(edges.column(name)) for name in (c.ITEM_IDX, c.NEIGHBOUR_IDX, c.SCORE))
    order = np.lexsort((neighbour, -score, item))
    item = item[order]
    rank = np.arange(len(item)) - np.searchsorted(item, item)
    nearest = np.full((int(features.facts["num_items"]), count), -1, np.int64)
    kept = rank < count
    nearest[item[kept], rank[kept]] = neighbour[order][kept]
    return torch.from_numpy(nearest)
