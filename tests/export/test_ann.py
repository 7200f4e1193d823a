"""Every kind of index over real vectors: the product names of a shop as an encoder sees them, asked with what its customers bought."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from esans.config import build
from esans.errors import ConfigError
from esans.export.ann import EXACT, Truth, ann_figure, ann_table, default_of, measure_settings
from esans.export.config import IndexConfig
from esans.export.index import build_index, code_bytes, index_kind, setting_of

DATA = Path(__file__).parents[2] / "data" / "online_retail"
KINDS = ("flat", "hnsw", "ivf", "ivfpq")
SETTINGS = {"hnsw_links": 8, "hnsw_search": 40, "ivf_lists": 64, "ivf_probes": 4, "pq_bytes": 16, "pq_refine": 2, "measured_k": 20}


@pytest.fixture(scope="module")
def shop():
    items = pq.read_table(DATA / "text_emb.parquet")
    ids, vectors = items.column("item_id").to_numpy(), np.stack(items.column(1).to_pylist()).astype(np.float32)
    # 64 of the 384 dimensions carry most of it, as a tower's vectors would.
    _, _, axes = np.linalg.svd(vectors[::4] - vectors.mean(0), full_matrices=False)
    vectors = vectors @ axes[:64].T
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    events = pq.read_table(DATA / "interactions.parquet", columns=["user_id", "item_id"]).to_pandas()
    place = {item: row for row, item in enumerate(ids)}
    bought = events[events.user_id.isin(events.user_id.unique()[:150])]
    bought = bought.assign(row=bought.item_id.map(place)).dropna(subset=["row"]).groupby("user_id").row.apply(lambda rows: rows.astype(int))
    users = np.stack([vectors[rows].mean(0) for _, rows in bought.groupby("user_id")])
    users /= np.linalg.norm(users, axis=1, keepdims=True)
    return vectors, Truth(torch.from_numpy(users), torch.from_numpy(vectors), 20)


def config(kind, **keys):
    return build(IndexConfig, {"kind": kind, **SETTINGS, **keys})


@pytest.fixture(scope="module")
def index_of(shop):
    return cache(lambda kind: build_index(shop[0], config(kind), 3))


@pytest.mark.parametrize("kind", KINDS)
def test_recall_rises_with_the_setting_and_what_is_served_stays_set(shop, index_of, kind):
    _, truth = shop
    index = index_of(kind)
    rows = measure_settings(index, config(kind), kind, truth)
    assert [row.kind for row in rows[:1]] == [EXACT]
    mine = [row for row in rows if row.kind == kind]
    recalls = [row.recall for row in mine]
    if kind == "flat":
        assert recalls == [1.0]
    else:
        assert [row.value for row in mine] == ([20, 40, 80, 160] if kind == "hnsw" else [1, 2, 4, 8, 16])
        assert all(later >= earlier - (0.02 if kind == "hnsw" else 1e-9) for earlier, later in pairwise(recalls))
        assert recalls[-1] > recalls[0] + 0.01
        assert recalls[-1] > 0.8
    again, _ = truth.measure(index)
    assert again == default_of(rows).recall
    assert default_of(rows).value == setting_of(index, config(kind), kind)[1]


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_that_was_written_and_read_is_set_as_it_was(shop, index_of, kind, tmp_path):
    vectors, truth = shop
    index = index_of(kind)
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    read = faiss.read_index(str(tmp_path / "index.faiss"))
    assert truth.measure(read)[0] == truth.measure(index)[0]
    assert read.ntotal == len(vectors)


def test_refining_on_the_exact_vectors_gives_exact_scores_and_more_recall(shop):
    vectors, truth = shop
    index = build_index(vectors, config("ivfpq", pq_refine=4, pq_bytes=4, ivf_probes=32), 3)
    refined, _ = truth.measure(index)
    scores, ids = index.search(vectors[:5], 10)
    assert np.allclose(scores, np.einsum("qd,qkd->qk", vectors[:5], vectors[ids]), atol=1e-5)
    index.k_factor = 1
    assert refined > truth.measure(index)[0] + 0.05


def test_the_same_seed_builds_the_same_coded_index(shop):
    vectors = shop[0][:600]
    first, second = (build_index(vectors, config("ivfpq", pq_bytes=2, ivf_lists=8), 5).search(vectors[:30], 10)[1] for _ in range(2))
    assert np.array_equal(first, second)


def test_the_kind_follows_the_size_up_to_codes():
    sizes = (49_999, 50_000, 4_999_999, 5_000_000, 19_999_999, 20_000_000)
    assert [index_kind(IndexConfig(), size) for size in sizes] == ["flat", "hnsw", "hnsw", "ivf", "ivf", "ivfpq"]


def test_a_code_cuts_the_dimensions_into_equal_parts():
    assert [code_bytes(64, 32), code_bytes(48, 32), code_bytes(100, 32), code_bytes(7, 32), code_bytes(8, 32)] == [32, 24, 25, 7, 8]


def test_too_few_items_for_codes_are_refused_with_what_to_take():
    with pytest.raises(ConfigError) as error:
        build_index(np.eye(200, 16, dtype=np.float32), config("ivfpq"), 0)
    assert str(error.value) == (
        "export.index.kind = 'ivfpq': codes need at least 256 items to learn from, and 200 may be recommended. Take flat."
    )


def test_the_table_and_the_picture_hold_every_setting(shop, index_of):
    vectors, truth = shop
    rows = measure_settings(index_of("ivf"), config("ivf"), "ivf", truth)
    table = ann_table(rows).to_pylist()
    assert [row["value"] for row in table] == [0, 1, 2, 4, 8, 16]
    assert {row["items"] for row in table} == {len(vectors)}
    (axes,) = ann_figure(rows).axes
    assert {text.get_text() for text in axes.texts} == {"1", "2", "4", "8", "16"}
