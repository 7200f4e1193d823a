"""What the profile counts, against the same counts by hand."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from esans.config import build
from esans.errors import DataError
from esans.prepare.config import PrepareConfig
from esans.retrain.profile import profile

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DAY = 86_400
AS_OF = datetime.date(2020, 1, 10)
NOON = int(datetime.datetime(2020, 1, 10, 12, tzinfo=datetime.UTC).timestamp())

# (user, item, days before the as-of day, pieces, event)
ROWS: list[tuple[str | None, str | None, int | None, int | None, str]] = [
    ("a", "x", 2, 1, "buy"),
    ("b", "y", 2, 2, "buy"),
    ("a", "y", 1, 1, "buy"),
    ("a", "y", 1, 1, "buy"),
    ("c", "x", 0, 1, "buy"),
    ("c", "z", 0, None, "view"),
    ("a", "new", 0, 3, "buy"),
    (None, "x", 0, 1, "buy"),
    ("a", "x", None, 1, "buy"),
    ("d", "x", -1, 9, "buy"),
]


@pytest.fixture
def raw(tmp_path: Path) -> PrepareConfig:
    times = [None if back is None else NOON - back * DAY for _, _, back, _, _ in ROWS]
    names = ("user_id", "item_id", "pieces", "event")
    columns = {name: [row[place] for row in ROWS] for name, place in zip(names, (0, 1, 3, 4), strict=True)}
    pq.write_table(pa.table({**columns, "time": pa.array(times, pa.int64())}), tmp_path / "events.parquet")
    items = {"item_id": ["x", "y", "z", "z"], "title": ["X", "", None, "Z"], "vector": [[3.0, 4.0], [0.6, 0.8], None, [1.0, 0.0]]}
    pq.write_table(pa.table(items), tmp_path / "items.parquet")
    mapped = {"user_id": "user_id", "item_id": "item_id", "timestamp": "time", "event": "event", "quantity": "pieces"}
    values: dict[str, Any] = {
        "items": {"path": str(tmp_path / "items.parquet"), "columns": {"title": "title", "text_vector": "vector"}},
        "interactions": {"path": str(tmp_path / "events.parquet"), "columns": mapped},
    }
    return build(PrepareConfig, values)


def test_days_are_counted_by_hand_and_later_rows_are_not_looked_at(spark: SparkSession, raw: PrepareConfig) -> None:
    found = profile(spark, raw, AS_OF, 28, None)["interactions"]
    assert sorted(found["days"]) == ["2020-01-08", "2020-01-09", "2020-01-10"]
    today, before = found["days"]["2020-01-10"], found["days"]["2020-01-09"]
    assert {name: today[name] for name in ("rows", "users", "items", "new_users", "new_items", "duplicates", "unknown_items")} == {
        "rows": 4,
        "users": 2,
        "items": 3,
        "new_users": 1,
        "new_items": 2,
        "duplicates": 0,
        "unknown_items": 1,
    }
    assert today["nulls"] == {"user_id": 1, "item_id": 0, "time": 0, "event": 0, "pieces": 1}
    assert before["duplicates"] == 1
    assert found["unreadable_times"] == 1
    assert found["distributions"]["event"] == {"words": ["buy"], "reference": [4, 0], "day": [3, 1]}
    assert sum(found["distributions"]["pieces"]["day"]) == 3


def test_items_are_counted_and_their_vectors_shown_by_length_in_the_bins_of_before(spark: SparkSession, raw: PrepareConfig) -> None:
    first = profile(spark, raw, AS_OF, 28, None)
    items = first["items"]
    assert (items["rows"], items["duplicates"], items["nulls"]) == (4, 1, {"title": 2, "vector": 1})
    (name,) = items["distributions"]
    assert name == "norm of vector"
    earlier = {"items": {"distributions": {name: {"edges": [0.5, 2.0]}}}}
    assert profile(spark, raw, AS_OF, 28, earlier)["items"]["distributions"][name] == {"edges": [0.5, 2.0], "counts": [0, 2, 1]}


def test_a_file_that_is_cut_short_is_named(spark: SparkSession, raw: PrepareConfig) -> None:
    path = Path(str(raw.interactions.path))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"interactions: cannot read .*events\.parquet"):
        profile(spark, raw, AS_OF, 28, None)
