"""Align bundles made by hand, and what every cluster bundle must keep."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tests.features.helpers import interactions, prepare, write_bundle

DIM = 6


def aligned(folder, text, behaviour, num_items=None, codebooks=None, **facts):
    """An align bundle of two modalities; rows of `text` and `behaviour` are items 0, 1, .. `codebooks`: P and Q that it trained."""
    n = len(text)
    mean = ((text + behaviour) / 2).astype(np.float32)
    columns = {"item_idx": pa.array(range(n), pa.int64())}
    for name, rows in (("text", text), ("behaviour", behaviour), ("mean", mean)):
        columns[name] = pa.array(rows.astype(np.float32).tolist(), pa.list_(pa.float32()))
    columns["present"] = pa.array([[True, True]] * n)
    facts |= {"num_items": num_items or n, "modalities": ["text", "behaviour"], "dim": text.shape[1], "unaligned": (num_items or n) - n}
    tables = {"vectors": pa.table(columns)}
    for name, code, rows in zip(("codebook_primary", "codebook_secondary"), ("c1", "c2"), codebooks or (), strict=False):
        centroid = pa.array(rows.tolist(), pa.list_(pa.float32()))
        tables[name] = pa.table({code: pa.array(range(len(rows)), pa.int32()), "centroid": centroid})
    return write_bundle(folder, "align", tables, facts)


def inputs(folder, text, behaviour, num_items=None, **align):
    """All three inputs: item i is linked to i + 1, and its category is the parity of i."""
    n = num_items or len(text)
    graph = pa.table(
        {
            "item_idx": pa.array(range(n - 1), pa.int64()),
            "neighbour_idx": pa.array(range(1, n), pa.int64()),
            "score": pa.array([1.0] * (n - 1), pa.float32()),
        }
    )
    items = pa.table({"item_idx": pa.array(range(n), pa.int64()), "side_kind": [f"kind{item % 2}" for item in range(n)]})
    return {
        "align": aligned(folder, text, behaviour, num_items, **align),
        "features": write_bundle(folder, "features", {"graph": graph}, {}),
        "prepare": prepare(folder, items, interactions([]), {"kind": "category"}),
    }


def unit(n, seed=0):
    rows = np.random.default_rng(seed).standard_normal((n, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def column(bundle, table, name, order=None):
    rows = bundle.table(table).arrow()
    return np.array((rows.sort_by(order) if order else rows).column(name).to_pylist())


def assert_guarantees(bundle, n, num_items, least=20, n_h=5):
    """Everything that a sampler relies on."""
    c1, c2 = column(bundle, "codes", "c1", "item_idx"), column(bundle, "codes", "c2", "item_idx")
    assert len(c1) == num_items
    assert (c1[n:] == -1).all()
    assert (c2[n:] == -1).all()
    k1 = bundle.facts["num_primary"]
    sizes = np.bincount(c1[:n], minlength=k1)
    assert len(sizes) == k1 >= 3
    assert sizes.min() >= least
    assert sizes.max() <= 5 * sizes.mean()
    expected = [item for _, _, item in sorted(zip(c1[:n], c2[:n], range(n), strict=True))]
    assert column(bundle, "members", "item_idx", "position").tolist() == expected
    assert column(bundle, "members", "position", "position").tolist() == list(range(n))
    cells = bundle.table("cells").arrow().to_pylist()
    assert [cell["offset"] for cell in cells] == [0, *np.cumsum([cell["count"] for cell in cells])[:-1]]
    for cell in cells:
        pool = sizes[cell["c1"]] - cell["count"]
        assert pool >= n_h or pool + sizes[cell["fallback"]] >= n_h
        assert cell["fallback"] == -1 or cell["fallback"] != cell["c1"]
    probabilities = column(bundle, "transitions", "probabilities")
    assert probabilities.shape == (k1, k1)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    assert (np.diag(probabilities) == 0).all()
