"""A log that the next run appends to: the same tables as a run over the whole raw table, from the rows of the last days alone."""

from __future__ import annotations

import pytest

from esans.config import build
from esans.errors import ConfigError
from esans.prepare.config import PrepareConfig

from .conftest import DAY, EVENTS, ITEMS, START, events_of, rows

SPLIT = {"method": "global_time", "validation_from": START + 2 * DAY, "test_from": START + 3 * DAY}
TABLES = ("items", "users", "interactions", "histories", "popularity", "log")


def until(day):
    return START + day * DAY + 1


def joined(*tables):
    return {name: [value for table in tables for value in table[name]] for name in EVENTS}


def tables_of(bundle):
    return {name: sorted(rows(bundle, name), key=str) for name in TABLES}


def test_an_extended_log_gives_what_the_whole_raw_table_gives_and_reads_only_what_came_since(prepare):
    new = events_of((1, 4, 4), ("new", 0, 4), ("new", 1, 4), ("new", 2, 5), (2, 99, 5), (3, 4, 5))
    events = joined(EVENTS, new)
    events |= {name: [*map(str, events[name])] for name in ("user_id", "item_id")}
    items = {"item_id": [*map(str, ITEMS["item_id"])]}
    keys = {"split": SPLIT, "max_rejected_share": 0.5}
    eve = prepare(items, events, until=until(3), log={"write": True}, **keys)
    assert eve.facts["until_seconds"] == until(3)
    anew = prepare(items, events, until=until(5), log={"write": True}, previous=eve.uri, **keys)
    day = prepare(items, events, until=until(5), log={"write": True, "extend": True, "late_days": 1}, previous=eve.uri, **keys)
    assert tables_of(day) == tables_of(anew)
    assert rows(day, "rejected") == rows(anew, "rejected")
    whole = len(events["user_id"])
    assert (day.figures["interactions.read"], anew.figures["interactions.read"]) == (3 + len(new["user_id"]), whole)
    assert {**day.figures, "interactions.read": whole} == anew.figures

    # A night more on top of it, on which nothing happened.
    later = prepare(items, events, until=until(7), log={"write": True, "extend": True, "late_days": 0}, previous=day.uri, **keys)
    assert later.figures["interactions.read"] == 0
    assert rows(later, "log") == rows(day, "log")


def test_rows_that_came_late_are_taken_in_within_the_late_days_and_no_later_ones(prepare):
    late = {"user_id": [1, 2], "item_id": [4, 4], "timestamp": [START + DAY // 2, START + 3 * DAY // 2]}
    eve = prepare(ITEMS, EVENTS, until=until(3), log={"write": True}, split=SPLIT)
    keys = {"log": {"write": True, "extend": True, "late_days": 2}, "previous": eve.uri, "until": until(4)}
    bundle = prepare(ITEMS, joined(EVENTS, late), split=SPLIT, **keys)
    found = {time for (time,) in rows(bundle, "log", "timestamp")}
    assert [time in found for time in late["timestamp"]] == [False, True]


def test_events_of_an_item_that_left_the_catalogue_are_rejected_and_stay_in_the_log(prepare):
    eve = prepare(ITEMS, EVENTS, until=until(3), log={"write": True}, split=SPLIT)
    keys = {"log": {"write": True, "extend": True, "late_days": 0}, "previous": eve.uri, "until": until(4), "max_rejected_share": 0.5}
    bundle = prepare({"item_id": [0, 1, 2, 3]}, EVENTS, split=SPLIT, **keys)
    lost = sum(item == 4 for item in EVENTS["item_id"])
    assert bundle.figures["interactions.rejected"] == lost
    assert {(reason, column) for reason, column in rows(bundle, "rejected", "reason", "column")} == {("unknown_item", "item_id")}
    assert len(rows(bundle, "log")) == len(EVENTS["item_id"])
    anew = prepare({"item_id": [0, 1, 2, 3]}, EVENTS, split=SPLIT, previous=eve.uri, until=until(4), max_rejected_share=0.5)
    assert sorted(rows(bundle, "interactions"), key=str) == sorted(rows(anew, "interactions"), key=str)


def test_a_bundle_without_a_log_is_read_around_and_a_log_of_other_rules_refused(prepare, capsys):
    keys = {"log": {"write": True, "extend": True}, "split": SPLIT}
    plain = prepare(ITEMS, EVENTS, until=until(3), split=SPLIT)
    logged = prepare(ITEMS, EVENTS, until=until(4), previous=plain.uri, **keys)
    assert "has no log of checked events (prepare.log.write): the whole raw table is read" in capsys.readouterr().out
    assert logged.figures["interactions.read"] == len(EVENTS["user_id"])
    with pytest.raises(ConfigError, match=r"was read with other values of prepare\.interactions\.timestamps\.min\."):
        prepare(ITEMS, EVENTS, previous=logged.uri, interactions={"timestamps": {"min": 2}}, until=until(5), **keys)
    with pytest.raises(ConfigError, match=r"log\.write needs until"):
        build(PrepareConfig, {"log": {"write": True}})
