"""The index: its type by size, and its recall against exact search."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from esans.export.ann import Truth
from esans.export.config import IndexConfig
from esans.export.index import build_index, index_kind


def unit(rows: int, dim: int, seed: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.mark.parametrize(("size", "kind"), [(1, "flat"), (49_999, "flat"), (50_000, "hnsw"), (4_999_999, "hnsw"), (5_000_000, "ivf")])
def test_the_type_follows_the_size(size, kind):
    assert index_kind(IndexConfig(), size) == kind
    assert index_kind(IndexConfig(kind="flat"), size) == "flat"


def test_a_flat_index_loses_nothing_even_where_items_are_equal():
    vectors = unit(300, 16, 0)[torch.arange(900) % 300]
    recall, speed = Truth(unit(50, 16, 1), vectors, 50).measure(build_index(vectors.numpy(), IndexConfig(), 0))
    assert recall == 1.0
    assert speed > 0


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_the_measured_recall_of_an_approximate_index_is_its_overlap_with_a_full_sort(kind):
    vectors, queries = unit(3000, 16, 0), unit(40, 16, 1)
    index = build_index(vectors.numpy(), IndexConfig(kind=kind, hnsw_search=16, ivf_lists=40, ivf_probes=4), 7)
    _, found = index.search(queries.numpy(), 20)
    best = np.argsort(-(queries @ vectors.T).numpy(), axis=1)[:, :20]
    overlap = np.mean([len(set(a) & set(b)) / 20 for a, b in zip(found.tolist(), best.tolist(), strict=True)])
    assert Truth(queries, vectors, 20).measure(index)[0] == pytest.approx(overlap, abs=1e-3)
    assert 0.2 < overlap < 1.0


def test_the_same_seed_builds_the_same_ivf_index():
    vectors, queries = unit(2000, 8, 0), unit(20, 8, 1).numpy()
    config = IndexConfig(kind="ivf", ivf_lists=16, ivf_probes=2)
    first, second = (build_index(vectors.numpy(), config, 3).search(queries, 10)[1] for _ in range(2))
    assert np.array_equal(first, second)


def test_more_is_asked_of_a_small_catalogue_than_it_holds():
    vectors = unit(5, 8, 0)
    assert Truth(unit(3, 8, 1), vectors, 50).measure(build_index(vectors.numpy(), IndexConfig(), 0))[0] == 1.0
