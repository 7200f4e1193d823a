"""Retraining as of a moment: rows from then on are as if they were not there, and id maps remember what they grew from."""

from __future__ import annotations

import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from esans.config import build
from esans.errors import ConfigError, DataError
from esans.prepare.config import InteractionsConfig, PrepareConfig
from esans.prepare.ids import chain, digest
from esans.prepare.interactions import before

from .conftest import DAY, EVENTS, ITEMS, START, events_of, named_histories, rows

CUT = START + 3 * DAY
TIMES = [CUT - 1, None, CUT, CUT + 1, -5]


def moment(seconds):
    return None if seconds is None else datetime.datetime.fromtimestamp(seconds, datetime.UTC)


@pytest.mark.parametrize(
    ("unit", "column"),
    [
        ("s", pa.array(TIMES, pa.int64())),
        ("s", pa.array(TIMES, pa.int32())),
        ("ms", pa.array([None if t is None else t * 1000 + 999 * (t < CUT) for t in TIMES])),
        ("s", pa.array([None if t is None else t + 0.5 * (t < CUT) for t in TIMES], pa.float64())),
        ("s", pa.array([None if t is None else str(t) for t in TIMES])),
        ("s", pa.array([None if t is None else moment(t).isoformat() for t in TIMES])),
        ("s", pa.array([moment(t) for t in TIMES], pa.timestamp("us", "UTC"))),
    ],
    ids=["seconds", "int32", "milliseconds", "float", "text", "iso", "timestamp"],
)
def test_rows_from_the_end_on_are_left_out_whatever_the_type_of_their_time(spark, tmp_path, unit, column):
    pq.write_table(pa.table({"at": column, "row": range(len(TIMES))}), tmp_path / "events.parquet")
    config = build(InteractionsConfig, {"columns": {"timestamp": "at"}, "timestamps": {"unit": unit}})
    left = before(spark.read.parquet(str(tmp_path / "events.parquet")), config, CUT)
    # The row without a time may belong before the end: the checks say what is wrong with it.
    assert sorted(row["row"] for row in left.collect()) == [0, 1, 4]
    if unit == "s" and pa.types.is_int64(column.type):
        assert f"LessThan(at,{CUT})" in left._jdf.queryExecution().executedPlan().toString().split("PushedFilters")[1]


def test_a_table_with_an_end_gives_what_the_table_that_ends_there_gives(prepare):
    # Nothing is right with the rows of the day of the cut and after it, and nobody counts them.
    late = events_of((1, 99, CUT), (2, 98, CUT + 5), (1, 0, 10**10))
    early = [place for place, t in enumerate(EVENTS["timestamp"]) if t < CUT]
    shorter = {name: [values[place] for place in early] for name, values in EVENTS.items()}
    split = {"method": "last_days", "validation_days": 1, "test_days": 1}
    # START is 12:26 of a day, and the cut at that time three days later.
    until = datetime.datetime.fromtimestamp(CUT, datetime.UTC).isoformat()
    whole = prepare(ITEMS, {name: EVENTS[name] + late[name] for name in EVENTS}, until=until, split=split)
    ended = prepare(ITEMS, shorter, split={**split, "method": "global_time", "validation_from": CUT - 2 * DAY, "test_from": CUT - DAY})
    for table in ("interactions", "histories", "popularity", "users", "items"):
        assert rows(whole, table) == rows(ended, table)
    assert (whole.figures["interactions.rows"], whole.figures["interactions.rejected"]) == (len(early), 0)
    assert whole.facts["id_maps"] == ended.facts["id_maps"]
    assert whole.facts["until"] == until
    assert whole.facts["split"]["rule"].startswith(f"The last 1 days before {until} are the test, the 1 days before those the validation")


def test_a_day_on_top_of_the_day_before_gives_what_a_run_from_the_start_gives_under_its_own_numbers(prepare):
    split, late = {"method": "last_days", "validation_days": 1, "test_days": 1}, events_of(("new", 5, 3), ("new", 0, 4), (2, 5, 4))
    events = {name: [*map(str, EVENTS[name]), *map(str, late[name])] for name in ("user_id", "item_id")}
    events["timestamp"] = EVENTS["timestamp"] + late["timestamp"]
    grown = {"item_id": [*map(str, ITEMS["item_id"]), "5"]}
    before_it = prepare({"item_id": [*map(str, ITEMS["item_id"])]}, events, until=CUT, split=split)
    day = prepare(grown, events, until=CUT + 2 * DAY, split=split, previous=before_it.uri)
    start = prepare(grown, events, until=CUT + 2 * DAY, split=split)
    assert named_histories(day) == named_histories(start)
    counts = [{name: value for name, value in bundle.facts["split"].items() if name.startswith("num_")} for bundle in (day, start)]
    assert counts[0] == counts[1]
    assert day.figures == start.figures
    chosen = {}
    for bundle in (day, start):
        ids = dict(rows(bundle, "items", "item_idx", "item_id"))
        chosen[bundle.uri] = sorted((ids[item], count) for item, count in rows(bundle, "popularity", "item_idx", "count"))
    assert chosen[day.uri] == chosen[start.uri]
    known, now = (dict(rows(bundle, "items", "item_id", "item_idx")) for bundle in (before_it, day))
    assert {name: now[name] for name in known} == known
    assert now["5"] == 5


def test_an_end_before_all_rows_and_an_end_without_times_are_refused(prepare):
    with pytest.raises(DataError, match=r"^interactions: the table is empty \(0 rows before prepare\.until\)"):
        prepare(ITEMS, EVENTS, until=1)
    with pytest.raises(ConfigError, match=r"until = 5(\.0)? needs interactions\.columns\.timestamp: positions are no times"):
        build(PrepareConfig, {"until": 5, "interactions": {"columns": {"position": "place"}}})
    with pytest.raises(ConfigError, match=r"until = 'soon': must be unix seconds or an ISO date"):
        build(PrepareConfig, {"until": "soon"})


def test_an_id_map_has_a_digest_of_its_own_in_whatever_order_it_lies_and_remembers_what_it_grew_from(spark):
    def of(pairs, parts):
        return digest(spark.createDataFrame(pairs, "id string, idx long").repartition(parts), "id", "idx")

    pairs = [(f"i{n}", n) for n in range(20)]
    assert of(pairs, 1) == of(pairs[::-1], 3) != of([*pairs[:18], ("i18", 19), ("i19", 18)], 1)
    first, second = {"items": 3, "users": 2, "digest": "a"}, {"items": 4, "users": 2, "digest": "b"}
    grown = chain(second, {"id_maps": chain(first, {})})
    assert grown == [first, second] == chain(second, {"id_maps": grown})
