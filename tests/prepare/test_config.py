"""Settings of prepare that contradict each other are refused by name; the fingerprint follows the data."""

from __future__ import annotations

import subprocess
import sys

import pytest

from esans.config import build
from esans.errors import ConfigError
from esans.prepare.config import PrepareConfig
from esans.prepare.fingerprint import outside_inputs


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            {"items": {"path": "a", "table": "b"}},
            "prepare.items: path = 'a' contradicts table = 'b': set one of the two",
        ),
        (
            {"interactions": {"table": "events"}},
            "prepare.interactions: table = 'events' needs snapshot: a catalogue table has no files to fingerprint, "
            "so its version must be named",
        ),
        (
            {"interactions": {"columns": {"timestamp": "t", "position": "p"}}},
            "prepare.interactions.columns: timestamp = 't' contradicts position = 'p': set one of the two",
        ),
        (
            {"split": {"method": "last_basket"}},
            "prepare: split.method = 'last_basket' needs interactions.columns.order_id: the column that holds the order",
        ),
        (
            {"split": {"method": "global_time", "validation_from": 0.9, "test_from": 0.8}},
            "prepare.split: test_from = 0.8 must come after validation_from = 0.9, and both after 0",
        ),
        (
            {"split": {"validation_from": 0.8}},
            "prepare.split: validation_from and test_from belong to method=global_time, not to method=last_out: remove them",
        ),
        (
            {"events": {"positives": {"buy": 1}, "exposures": ["buy"]}},
            "prepare.events: positives and exposures both name 'buy': an event type is one or the other",
        ),
        (
            {"events": {"min_rating": 3}},
            "prepare: events.min_rating needs interactions.columns.rating",
        ),
        (
            {"interactions": {"columns": {"user": "u"}}},
            "prepare.interactions.columns.user: unknown key. Did you mean 'user_id'? Allowed here: user_id, item_id, timestamp, position, "
            "event, order_id, weight, quantity, rating.",
        ),
        (
            {"max_rejected_share": 5},
            "prepare.max_rejected_share = 5: must be less than or equal to 1.",
        ),
        (
            {"items": {"side": {"Price!": {"column": "p", "kind": "number"}}}},
            "prepare.items: side.Price!: must be a lower-case word (letters, digits, _), as it becomes part of column names",
        ),
    ],
)
def test_impossible_settings_are_refused_with_the_key(values, text):
    with pytest.raises(ConfigError) as error:
        build(PrepareConfig, values, "prepare")
    assert str(error.value) == text


def test_dates_become_plain_values():
    import datetime

    config = build(
        PrepareConfig, {"split": {"method": "global_time", "validation_from": datetime.date(2011, 11, 1), "test_from": "2011-12-01"}}
    )
    assert config.split.validation_from == "2011-11-01"


def test_the_fingerprint_follows_the_content_and_not_marker_files_or_times(raw, tmp_path):
    config = raw()
    before = outside_inputs(config)
    raw()
    assert outside_inputs(config) == before
    raw({"item_id": [0, 1, 2]})
    after = outside_inputs(config)
    assert after["items"] != before["items"]
    assert after["interactions"] == before["interactions"]
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "items.parquet").rename(folder / "part.parquet")
    config.items.path = str(folder)
    whole = outside_inputs(config)
    (folder / "_SUCCESS").touch()
    assert outside_inputs(config) == whole
    config.items.snapshot = "monday"
    assert outside_inputs(config)["items"] == {"snapshot": "monday"}


def test_the_stage_is_light_to_import():
    code = "import sys, esans.prepare.stage; print([m for m in ('pyspark', 'torch', 'mlflow', 'pandas', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
