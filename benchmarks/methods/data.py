"""The data sets of the methods experiment: raw tables with one category an item where there is one, and the bundles made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from benchmarks.movielens import rarest_genres
from esans.bundle import Bundle
from esans.config import build, merge
from esans.flow import Plan, run_stage
from esans.settings import Settings

HEADLINE = ("movielens", "online_retail", "amazon_beauty")
DATASETS = (*HEADLINE, "basket_completion")
STAGES = ("prepare", "features", "align", "cluster", "shards")
_FOLDERS = {"basket_completion": "online_retail"}
# An attribute that fewer items carry would leave most of its draws to chance.
_LEAST_CARRIERS = 20


def bundles(dataset: str, data: Path, work: Path, over: Mapping[str, Any] | None = None) -> dict[str, Bundle]:
    """Bundles of a data set by stage, built where they are not up to date; `over` changes settings, as an ablation does."""
    plan = Plan(settings(dataset, data, work, over))
    return {stage: run_stage(plan, stage, label=f"{dataset}: ") for stage in STAGES}


def sizes(inputs: Mapping[str, Bundle]) -> dict[str, int]:
    """Items, examples and users of a data set, as its bundles have them."""
    facts = inputs["prepare"].facts
    found = {"items": facts["num_items"], "users": facts["num_users"], "train_events": facts["num_train"]}
    return found | {"examples": inputs["shards"].table("examples").rows, "test_users": facts["num_test_users"]}


def settings(dataset: str, data: Path, work: Path, over: Mapping[str, Any] | None = None) -> Settings:
    """The whole configuration of a data set, up to training."""
    described = yaml.safe_load(Path(__file__).with_name("datasets.yaml").read_text())
    folder = data / _FOLDERS.get(dataset, dataset)
    raw = work / "raw" / folder.name
    if not (raw / "items.parquet").is_file():
        raw.mkdir(parents=True, exist_ok=True)
        _WITH_CATEGORY[folder.name](folder, raw / "items.parquet")
    extra = {
        name: {"path": str(folder / f"{name}.parquet")} for name in ("text_emb", "image_emb") if (folder / f"{name}.parquet").is_file()
    }
    tables = {"items": {"path": str(raw / "items.parquet"), "extra": extra}, "interactions": {"path": str(folder / "interactions.parquet")}}
    values = merge(described["shared"], described[dataset])
    values = merge(values, {"work_dir": str(work / "bundles"), "prepare": tables})
    return build(Settings, merge(values, over or {}))


def _films(folder: Path, target: Path) -> None:
    items = pq.read_table(folder / "items.parquet", columns=["item_id", "title", "genres"])
    genre = pa.array(rarest_genres(items.column("genres").to_pylist()))
    pq.write_table(items.drop(["genres"]).append_column("genre", genre), target)


def _beauty(folder: Path, target: Path) -> None:
    """An item's category is the rarest of its attributes that at least 20 items carry."""
    items = pq.read_table(folder / "items.parquet")
    listed = items.column("attributes").to_pylist()
    carriers = Counter(attribute for attributes in listed for attribute in attributes)
    kept = [[attribute for attribute in attributes if carriers[attribute] >= _LEAST_CARRIERS] for attributes in listed]
    category = [min(attributes, key=lambda one: (carriers[one], one)) if attributes else None for attributes in kept]
    words = pa.array([[str(attribute) for attribute in attributes] for attributes in listed], pa.list_(pa.string()))
    columns = {
        "item_id": items.column("item_id"),
        "attributes": words,
        "category": pa.array([None if c is None else str(c) for c in category]),
    }
    pq.write_table(pa.table(columns), target)


def _shop(folder: Path, target: Path) -> None:
    pq.write_table(pq.read_table(folder / "items.parquet"), target)


_WITH_CATEGORY = {"movielens": _films, "online_retail": _shop, "amazon_beauty": _beauty}
