"""The delta of two exports, applied to the earlier one, gives the later one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esans.bundle import Bundle, BundleWriter
from esans.config import build
from esans.errors import BundleError
from esans.export import delta
from esans.export.config import ExportConfig
from esans.export.stage import Export
from esans.model import TwoTower, save
from esans.model.config import ModelConfig
from tests.retrieval.small import context, random_users, write_prepare

ITEMS = 12


def write(folder: Path, name: str, rows: dict[str, tuple[int, np.ndarray]]) -> Bundle:
    """A bundle with item_vectors {item_id: (item_idx, vector)}."""
    out = BundleWriter(str(folder / "export" / name), "export", name)
    vectors = pa.array([vector.tolist() for _, vector in rows.values()], pa.list_(pa.float32()))
    index = pa.array([index for index, _ in rows.values()], pa.int64())
    out.write_arrow("item_vectors", pa.table({"item_idx": index, "item_id": pa.array(list(rows), pa.string()), "vector": vectors}))
    return out.finish(code_version=1, config={}, inputs={})


def changes(folder: Path, old: Bundle, new: Bundle, tolerance: float = 0.0) -> tuple[delta.Changes, dict[str, Any]]:
    """The changes between two bundles, and the earlier one with the delta applied: {item_id: (item_idx, vector)}."""
    out = BundleWriter(str(folder / "delta"), "export", "delta")
    tables = old.table("item_vectors"), new.table("item_vectors")
    found = delta.write_delta(out, "item_vectors", *tables, "item_idx", "item_id", tolerance)
    written = out.finish(code_version=1, config={}, inputs={})
    parts = written.table("item_vectors_delta"), written.table("item_vectors_removed")
    rows = pa.Table.from_batches(delta.patched(tables[0], *parts, "item_id"), tables[0].dataset().schema).to_pylist()
    assert len({row["item_id"] for row in rows}) == len(rows)
    return found, {row["item_id"]: (row["item_idx"], row["vector"]) for row in rows}


def catalogue(ids: list[int], moved: set[int], step: float) -> dict[str, tuple[int, np.ndarray]]:
    """Items in index order of `ids`; each vector tells its id, those of `moved` lie `step` away."""
    return {f"i{item}": (place, np.float32([item / 8, 0.5 + step * (item in moved)])) for place, item in enumerate(ids)}


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    old=st.lists(st.integers(0, ITEMS), unique=True, min_size=1),
    new=st.lists(st.integers(0, ITEMS), unique=True, min_size=1),
    moved=st.sets(st.integers(0, ITEMS)),
    range_size=st.sampled_from([1, 3, 1000]),
)
def test_the_delta_applied_to_the_earlier_export_gives_the_later_one_in_every_bit(
    tmp_path_factory: pytest.TempPathFactory, old: list[int], new: list[int], moved: set[int], range_size: int
) -> None:
    folder = tmp_path_factory.mktemp("delta")
    before, after = catalogue(old, set(), 0.25), catalogue(new, moved, 0.25)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delta, "_RANGE", range_size)
        found, patched = changes(folder, write(folder, "old", before), write(folder, "new", after))
    assert {item: (index, np.float32(vector).tolist()) for item, (index, vector) in patched.items()} == {
        item: (index, vector.tolist()) for item, (index, vector) in after.items()
    }
    same = {
        item
        for item in after
        if item in before and before[item][0] == after[item][0] and before[item][1].tolist() == after[item][1].tolist()
    }
    assert (found.rows, found.changed) == (len(after), len(after) - len(same))
    gone = {item for item in before if item not in after or before[item][0] != after[item][0]}
    assert found.removed == len(gone)


def test_a_move_within_the_tolerance_is_no_change(tmp_path: Path) -> None:
    before = write(tmp_path, "old", catalogue([0, 1, 2, 3], set(), 0))
    after = write(tmp_path, "new", catalogue([0, 1, 2, 3, 4], {1, 2}, 0.125))
    found, patched = changes(tmp_path / "a", before, after, 0.125)
    assert (found.changed, found.removed, found.share) == (1, 0, 1 / 5)
    assert max(abs(patched[f"i{item}"][1][1] - (0.625 if item in (1, 2) else 0.5)) for item in range(5)) <= 0.125
    found, _ = changes(tmp_path / "b", before, after, 0.1)
    assert found.changed == 3


def test_other_dimensions_have_no_delta(tmp_path: Path) -> None:
    one = write(tmp_path, "old", {"i0": (0, np.float32([1, 0]))})
    with pytest.raises(
        BundleError, match=r"has vectors of 2 dimensions, this export of 3: there is no delta between them. Leave out export.delta_from"
    ):
        changes(tmp_path, one, write(tmp_path, "new", {"i0": (0, np.float32([1, 0, 0]))}))


def test_the_stage_writes_what_changed_since_an_earlier_export_and_reports_its_share(tmp_path: Path) -> None:
    import torch

    prepare = write_prepare(tmp_path, random_users(8, 20, 48), 48)
    torch.manual_seed(0)
    model = TwoTower(ModelConfig(dim=8, hidden=0), 48, 20, 6, 0, [])
    bundles: list[Bundle] = []
    for name in ("old", "new"):
        train = BundleWriter(str(tmp_path / "train" / name), "train", name)
        with train.local("model") as target:
            save(model, target)
        inputs = {"prepare": prepare, "train": train.finish(code_version=1, config={}, inputs={})}
        given_from = {"delta_from": bundles[0].uri} if bundles else {}
        config = build(ExportConfig, {"registry": {"register": False}, "towers": False, **given_from})
        assert Export.previous_uri(config) == (bundles[0].uri if bundles else None)
        out = BundleWriter(str(tmp_path / "export" / name), "export", name)
        Export(config, context(tmp_path)).run({**inputs, **({"previous": bundles[0]} if bundles else {})}, out)
        bundles.append(out.finish(code_version=1, config={}, inputs={}))
        with torch.no_grad():
            model.item_inputs.id_embedding.weight[5:8] *= -1
    old, new = bundles
    assert not old.has("item_vectors_delta")
    assert new.table("item_vectors_delta").arrow().column("item_id").to_pylist() == ["item-5", "item-6", "item-7"]
    assert new.figures["delta.items_share"] == 3 / 48
    users = new.table("user_vectors_delta"), new.table("user_vectors_removed")
    assert 0 < new.figures["delta.users_changed"] == users[0].rows
    assert users[1].rows == new.figures["delta.users_removed"] == 0
    patched = pa.Table.from_batches(delta.patched(old.table("user_vectors"), *users, "user_id"))
    assert patched.sort_by("user_idx").equals(new.table("user_vectors").arrow().sort_by("user_idx"))
