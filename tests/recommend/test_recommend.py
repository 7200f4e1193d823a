"""Recommendations against the naive ranking, for known, unknown and history-less users, by bundles and by the registry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import torch

from esans.bundle import Bundle, BundleWriter
from esans.config import build
from esans.errors import ConfigError, DataError
from esans.export.config import ExportConfig
from esans.export.stage import Export
from esans.model import TwoTower, load, save
from esans.model.config import ModelConfig
from esans.recommend import parts
from esans.recommend.config import RecommendConfig
from esans.recommend.registered import pinned
from esans.recommend.stage import Recommend
from esans.retrieval.keys import tie_order
from esans.spark import SparkConfig
from esans.stage import StageContext
from esans.tracking import TrackingConfig, start_run
from tests.retrieval.small import RecordingRun, context, random_users, write_prepare

ITEMS, USERS, UNAVAILABLE = 48, 30, (3, 11)
MODEL = {"model": "models:/small/1"}
# A user without any positive: in the tables, and nothing to go by.
EMPTY = USERS


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, new_store: Callable[[Path], str], spark: Any) -> dict[str, Any]:
    """Prepare, train and export bundles, and the model in a registry."""
    folder: Path = tmp_path_factory.mktemp("recommend")
    new_store(folder)
    prepare = write_prepare(folder, {**random_users(8, USERS, ITEMS), EMPTY: {}}, ITEMS, UNAVAILABLE)
    torch.manual_seed(0)
    model = TwoTower(ModelConfig(dim=8, hidden=8), ITEMS, USERS + 1, 6, 0, [])
    train = BundleWriter(str(folder / "train" / "x"), "train", "x")
    with train.local("model") as target:
        save(model, target)
    inputs = {"prepare": prepare, "train": train.finish(code_version=1, config={}, inputs={})}
    tracking = TrackingConfig(system_metrics=False)
    out = BundleWriter(str(folder / "export" / "x"), "export", "x")
    with start_run(tracking, str(folder), "export") as run:
        config = build(ExportConfig, {"registry": {"name": "small", "alias": "champion"}, "towers": False})
        Export(config, StageContext(0, str(folder), SparkConfig(), tracking, run, "esans")).run(inputs, out)
    inputs["export"] = out.finish(code_version=1, config={}, inputs={})
    return {"folder": folder, "inputs": inputs, "uri": run.tracking_uri}


def recommend(world: dict[str, Any], folder: Path, prepare: Bundle | None = None, **keys: Any) -> tuple[dict[str, dict[str, Any]], Bundle]:
    """Rows by user id, and the bundle, of a run with these keys."""
    inputs = {**world["inputs"], **({"prepare": prepare} if prepare else {})}
    config = build(RecommendConfig, {"chunk_users": 7, "user_batch": 3, "item_chunk": 10, "k": 5, **keys})
    out = BundleWriter(str(folder / "recommend" / "x"), "recommend", "x")
    Recommend(config, context(folder, RecordingRun(tracking_uri=world["uri"]))).run(inputs, out)
    bundle = out.finish(code_version=1, config={}, inputs={})
    rows = bundle.table("recommendations").arrow().to_pylist()
    assert len({row["user_id"] for row in rows}) == len(rows)
    return {row["user_id"]: row for row in rows}, bundle


def expected(world: dict[str, Any], k: int, forbidden: tuple[int, ...] = UNAVAILABLE) -> dict[str, list[str]]:
    """The naive ranking of the model: user id -> item ids."""
    with world["inputs"]["train"].local("model") as folder:
        model = load(folder)
    result = {}
    with torch.inference_mode():
        items = model.encode_items(torch.arange(ITEMS))
        for row in world["inputs"]["prepare"].table("histories").arrow().to_pylist():
            if row["split"] == "serve" and row["history"]:
                user = model.encode_users(torch.tensor([([-1] * 6 + row["history"])[-6:]]), torch.tensor([-1]))
                order = (items @ user[0]).argsort(descending=True).tolist()
                kept = [item for item in order if item not in row["seen"] and item not in forbidden]
                result[f"user-{row['user_idx']}"] = [f"item-{item}" for item in kept[:k]]
    return result


@pytest.mark.parametrize("keys", [{}, {"search": "index"}, MODEL, {**MODEL, "search": "index"}])
def test_every_user_gets_the_best_items_without_seen_and_unavailable_ones(
    world: dict[str, Any], tmp_path: Path, keys: dict[str, Any]
) -> None:
    rows, bundle = recommend(world, tmp_path, **keys)
    known = expected(world, 5)
    assert {user: row["item_ids"] for user, row in rows.items() if not row["fallback"]} == known
    assert all(row["scores"] == sorted(row["scores"], reverse=True) for row in rows.values())
    assert set(rows) - set(known) == {f"user-{EMPTY}"}
    # By train positives, ties by the fixed shuffle.
    counts = world["inputs"]["prepare"].table("popularity").dense("item_idx", "count", ITEMS, dtype="int64")
    tie = tie_order(torch.arange(ITEMS)).numpy()
    popular = [item for item in np.lexsort((-tie, -counts)).tolist() if item not in UNAVAILABLE][:5]
    empty = rows[f"user-{EMPTY}"]
    assert (empty["item_ids"], empty["fallback"], empty["known_user"]) == ([f"item-{i}" for i in popular], True, True)
    assert bundle.figures["users"] == USERS + 1
    assert bundle.figures["users_without_history"] == 1
    assert len(bundle.table("recommendations").files) == -(-(USERS + 1) // 7)


def test_a_list_of_users_in_any_form_is_followed_and_unknown_ones_get_popular_items(world: dict[str, Any], tmp_path: Path) -> None:
    wanted = ["user-4", "nobody", "user-9", "user-4"]
    (tmp_path / "a.txt").write_text("\n".join(wanted) + "\n\n")
    pacsv.write_csv(pa.table({"user_id": wanted}), tmp_path / "a.csv")
    pq.write_table(pa.table({"who": wanted}), tmp_path / "a.parquet")
    for name, keys in (("a.txt", {}), ("a.csv", {}), ("a.parquet", {"users_column": "who"})):
        rows, bundle = recommend(world, tmp_path / name.replace(".", "-"), users=str(tmp_path / name), **keys)
        assert set(rows) == {"user-4", "nobody", "user-9"}
        assert rows["user-9"]["item_ids"] == expected(world, 5)["user-9"]
        assert (rows["nobody"]["fallback"], rows["nobody"]["known_user"], rows["nobody"]["user_idx"]) == (True, False, None)
        assert len(rows["nobody"]["item_ids"]) == 5
        assert (bundle.figures["users_unknown"], bundle.figures["users_without_history"]) == (1, 0)
    with pytest.raises(DataError, match=r"has no column 'user_id'; it has who\."):
        recommend(world, tmp_path / "b", users=str(tmp_path / "a.parquet"))
    with pytest.raises(ConfigError, match="no such file"):
        Recommend.outside_inputs(build(RecommendConfig, {"users": str(tmp_path / "missing.txt")}))


def test_a_registered_model_meets_a_later_catalogue_by_item_id(world: dict[str, Any], tmp_path: Path) -> None:
    # Today's tables: the items in another order, one that the model does not know, and another one unavailable.
    order = np.random.default_rng(0).permutation(ITEMS)
    place = {int(item): index for index, item in enumerate(order)}
    users = random_users(8, USERS, ITEMS)
    moved = {user: {split: [place[item] for item in items] for split, items in parts_.items()} for user, parts_ in users.items()}
    moved[0]["test"] = [*moved[0]["test"], ITEMS]
    prepare = write_prepare(tmp_path, moved, ITEMS + 1, (place[5],))
    table = prepare.table("items")
    ids = pa.array([*(f"item-{item}" for item in order), "new"])
    renamed = table.arrow().set_column(1, "item_id", ids)
    pq.write_table(renamed, table.file_uris[0].removeprefix("file://"))
    rows, _ = recommend(world, tmp_path, prepare, model="models:/small/1")
    assert {user: row["item_ids"] for user, row in rows.items()} == expected(world, 5, forbidden=(5,))


def test_where_fewer_items_are_left_the_list_is_shorter_and_counted(world: dict[str, Any], tmp_path: Path) -> None:
    rows, bundle = recommend(world, tmp_path, k=45)
    assert {user: row["item_ids"] for user, row in rows.items() if not row["fallback"]} == expected(world, 45)
    assert bundle.figures["users_with_fewer_items"] == sum(len(row["item_ids"]) < 45 for row in rows.values()) > 0


def test_a_run_that_failed_in_the_middle_keeps_its_parts_and_does_the_rest(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    work = parts.recommended

    def fails_at_the_third(*arguments: Any) -> pa.Table:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(1)
        return work(*arguments)

    monkeypatch.setattr(parts, "recommended", fails_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        recommend(world, tmp_path)
    folder = tmp_path / "recommend" / "x" / "attempt-x" / "recommendations"
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(before) == 2
    (folder / "part-0000003.parquet.abc.part").write_bytes(b"cut short")
    made.clear()
    monkeypatch.setattr(parts, "recommended", lambda *arguments: made.append(1) or work(*arguments))
    rows, bundle = recommend(world, tmp_path)
    assert len(made) == len(bundle.table("recommendations").files) - 2
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}.items()
    assert {user: row["item_ids"] for user, row in rows.items() if not row["fallback"]} == expected(world, 5)
    assert bundle.figures["users"] == USERS + 1
    assert not list((tmp_path / "recommend" / "x").rglob("*.part"))
    assert not (tmp_path / "recommend" / "x" / "scratch" / "requests").exists()


def test_an_alias_stands_for_the_version_it_names_now_and_a_missing_one_is_said(world: dict[str, Any]) -> None:
    assert pinned("models:/small@champion", world["uri"]) == pinned("models:/small/1", world["uri"]) == "models:/small/1"
    for missing in ("models:/small@nobody", "models:/other@champion", "models:/small/7"):
        with pytest.raises(ConfigError, match=f"recommend.model = '{missing}': not in the registry at sqlite:///"):
            pinned(missing, world["uri"])
    with pytest.raises(ConfigError, match=r"recommend.model = 'small': must be"):
        build(RecommendConfig, {"model": "small"}, "recommend")
