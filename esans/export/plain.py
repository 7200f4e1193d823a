"""What the files of an export mean, for those who read them without this package: written into the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esans.bundle import BundleWriter

_RETRIEVER = {
    "retriever/index.faiss": {
        "format": "faiss index, for faiss.read_index",
        "inputs": {"query": "(n, dim) float32: vectors of user_tower.pt2 or user_vectors"},
        "output": "inner products, and places: rows of retriever/items.parquet by its column `place`",
    },
    "retriever/items.parquet": {
        "format": "Parquet, one row an item in order of item_idx",
        "columns": {
            "item_id": "as in the raw table",
            "count": "train positives",
            "place": "in the index, -1 where it may not be recommended",
        },
    },
}


def describe(out: BundleWriter, towers: Mapping[str, Any]) -> dict[str, Any]:
    """Path in the attempt's folder -> format, inputs and outputs, of every file and table written so far.

    Args:
        out: the bundle.
        towers: what `export_towers` returned; {} where none were written.
    """
    found: dict[str, Any] = {f"towers/{name}": meaning for name, meaning in towers.items()}
    for kind in ("item", "user"):
        if f"{kind}_vectors" in out.tables:
            columns = {f"{kind}_idx": "dense, from 0", f"{kind}_id": "as in the raw table", "vector": "list of dim float32, unit length"}
            found[f"{kind}_vectors"] = {"format": "Parquet", "columns": columns}
        if f"{kind}_vectors_delta" in out.tables:
            since = "since the export of export.delta_from"
            found[f"{kind}_vectors_removed"] = {"format": "Parquet", "rows": f"gone {since}, to be taken out first"}
            found[f"{kind}_vectors_delta"] = {"format": "Parquet", "rows": f"of {kind}_vectors, new or changed {since}"}
    return found | _RETRIEVER
