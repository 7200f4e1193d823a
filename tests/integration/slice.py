"""A small real slice of data/online_retail, and a configuration that runs the whole chain over it in about a minute."""

from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from tests.jvm import quick_java

USERS = 300


def write_slice(source: Path, experiments: Path, folder: Path) -> Path:
    """Write 300 users' rows and all items they touch into `folder`; returns the configuration file beside them."""
    rows = pq.read_table(source / "interactions.parquet")
    counts = rows.group_by("user_id").aggregate([("invoice_id", "count_distinct"), ("item_id", "count")])
    # Users with several baskets and no wholesale amounts: each can be tested, none dominates.
    fit = counts.filter(pc.and_(pc.greater_equal(counts["invoice_id_count_distinct"], 3), pc.less(counts["item_id_count"], 150)))
    chosen = pc.array_sort_indices(fit["user_id"].combine_chunks())[:USERS]
    rows = rows.filter(pc.is_in(rows["user_id"], fit["user_id"].combine_chunks().take(chosen)))
    known = pc.unique(rows["item_id"])
    pq.write_table(rows, folder / "interactions.parquet")
    for name in ("items", "text_emb"):
        table = pq.read_table(source / f"{name}.parquet")
        pq.write_table(table.filter(pc.is_in(table["item_id"], known)), folder / f"{name}.parquet")
    (folder / "experiments").symlink_to(experiments)
    config = folder / "slice.yaml"
    config.write_text(yaml.safe_dump(settings(folder), sort_keys=False))
    return config


def settings(folder: Path) -> dict[str, object]:
    """The quickstart's settings, made small."""
    columns = {"user_id": "user_id", "item_id": "item_id", "timestamp": "timestamp", "event": "event", "order_id": "invoice_id"}
    return {
        "work_dir": str(folder / "work"),
        "seed": 3,
        "spark": {"master": "local[2]", "driver_memory": "2g", "shuffle_partitions": 2, "java_options": quick_java()},
        "tracking": {"system_metrics": False},
        "prepare": {
            "items": {
                "path": str(folder / "items.parquet"),
                "columns": {"item_id": "item_id", "title": "title", "text": "title"},
                "side": {"median_price": {"column": "median_price", "kind": "number"}},
            },
            "interactions": {"path": str(folder / "interactions.parquet"), "columns": columns},
            "events": {"positives": {"purchase": 1.0}},
            "split": {"method": "last_basket", "min_baskets": 3},
        },
        "align": {"epochs": 4},
        "references": {"knn": {"neighbours": [10, 20], "similarities": ["cosine"], "sides": ["candidate"], "half_lives": [20]}},
        "train": {"epochs": 2, "batch_size": 256},
    }
