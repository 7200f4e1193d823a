"""Three days of a real shop, each on top of the day before: nothing is numbered anew, spaces and clusters stay, training goes on."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from benchmarks.incremental import chain, until
from esans.bundle import Bundle
from esans.columns import ITEM_ID, ITEM_IDX, PRIMARY, USER_ID, USER_IDX
from esans.retrain.rules import overrides
from esans.train.warm_start import Earlier

DAY = datetime.date(2011, 11, 1)


@pytest.fixture(scope="module")
def days(
    retail_slice: Path, tmp_path_factory: pytest.TempPathFactory, new_store: Callable[[Path], str], spark: Any
) -> list[dict[str, Bundle]]:
    """Bundles of three days by stage; of the third only prepare."""
    folder = tmp_path_factory.mktemp("days")
    keys = {"work_dir": folder, "tracking.uri": new_store(folder), "prepare.split.method": "last_days"}
    keys |= {"prepare.split.test_days": 21, "prepare.split.validation_days": 21, "train.epochs": 1}
    found: list[dict[str, Bundle]] = []
    for number in range(3):
        day = DAY + datetime.timedelta(days=7 * number)
        # The catalogue grows too: an item is in it once it was sold.
        items = _sold_before(retail_slice.parent, day, folder)
        more = overrides("incremental", {name: bundle.uri for name, bundle in found[-1].items()}) if found else {}
        more |= {"prepare.until": until(day), "prepare.items.path": items}
        stages = ("prepare",) if number == 2 else ("prepare", "features", "align", "cluster", "shards", "train")
        found.append(chain([str(retail_slice)], keys | more, "esans", stages))
    return found


def _sold_before(source: Path, day: datetime.date, folder: Path) -> Path:
    rows, items = (pq.read_table(source / f"{name}.parquet") for name in ("interactions", "items"))
    end = datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.UTC).timestamp()
    sold = pc.unique(rows.filter(pc.less(rows["timestamp"], end))["item_id"])
    pq.write_table(items.filter(pc.is_in(items["item_id"], sold)), folder / f"items-{day}.parquet")
    return folder / f"items-{day}.parquet"


def _ids(bundle: Bundle, table: str, names: tuple[str, str]) -> dict[str, int]:
    read = bundle.table(table).arrow()
    return dict(zip(read[names[0]].to_pylist(), read[names[1]].to_pylist(), strict=True))


def test_no_item_or_user_is_ever_numbered_anew(days: list[dict[str, Bundle]]) -> None:
    for table, names in (("items", (ITEM_ID, ITEM_IDX)), ("users", (USER_ID, USER_IDX))):
        maps = [_ids(day["prepare"], table, names) for day in days]
        for earlier, later in pairwise(maps):
            assert {key: later[key] for key in earlier} == earlier
            assert sorted(later.values()) == list(range(len(later)))
        assert len(maps[0]) < len(maps[2])
    assert [len(day["prepare"].facts["id_maps"]) for day in days] == [1, 2, 3]


def test_heads_codes_rows_and_side_codes_of_the_day_before_stay(days: list[dict[str, Bundle]]) -> None:
    first, second = days[0], days[1]
    items = first["prepare"].facts["num_items"]
    assert second["align"].facts["space"] == first["align"].manifest["fingerprint"]
    assert second["features"].figures["behaviour.kept_cosine"] > 0.9
    assert second["cluster"].facts["decision"]["kind"] == "kept", second["cluster"].facts["decision"]
    codes = [day["cluster"].table("codes").dense(ITEM_IDX, PRIMARY, day["prepare"].facts["num_items"], np.int64) for day in (first, second)]
    assigned = codes[0] >= 0
    np.testing.assert_array_equal(codes[1][:items][assigned], codes[0][assigned])
    facts = second["train"].facts
    assert (facts["warm_start"], facts["warm_starts"]) == (first["train"].uri, 1)
    assert facts["full"] == {"until": str(DAY), "items": items, "users": first["prepare"].facts["num_users"]}
    earlier, later = (Earlier.open(day["train"]) for day in (first, second))
    assert later.kept.epochs == earlier.kept.epochs + 1
    grown = later.weights["item_inputs.id_embedding.weight"]
    assert len(grown) == second["prepare"].facts["num_items"] > items
    side = [day["features"].table("side_codes").arrow().to_pylist() for day in (first, second)]
    assert side[0] == side[1]
