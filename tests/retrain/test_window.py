"""The window against the same by hand: first choices of a day, and the history as it stood in the morning."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from esans.retrain.window import user_days, window_days

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

LAST = datetime.date(2020, 1, 10)
START = int(datetime.datetime(2020, 1, 9, tzinfo=datetime.UTC).timestamp())
HOUR = 3600


def test_the_window_ends_with_the_as_of_day() -> None:
    assert window_days(LAST, 3) == [datetime.date(2020, 1, 8), datetime.date(2020, 1, 9), LAST]


def test_targets_are_first_choices_of_the_day_and_histories_end_before_it(spark: SparkSession) -> None:
    # (user, item, hours after the morning of the first day)
    events = [(1, 10, -50), (1, 11, -40), (1, 12, 3), (1, 10, 4), (1, 13, 23), (1, 12, 25), (1, 14, 26), (1, 15, 49)]
    events += [(2, 10, 1), (2, 11, 30), (3, 10, -5)]
    rows = [
        (user, item, START + hours * HOUR, place)
        for user in (1, 2, 3)
        for place, (item, hours) in enumerate((item, hours) for one, item, hours in events if one == user)
    ]
    frame = spark.createDataFrame(rows, "user_idx long, item_idx long, timestamp long, position int")
    found = {
        (row["user_idx"], row["split"]): (row["history"], row["targets"], sorted(row["seen"]))
        for row in user_days(frame, window_days(LAST, 2), 3, 100, 0).collect()
    }
    assert found == {
        (1, "2020-01-09"): ([10, 11], [12, 13], [10, 11]),
        (1, "2020-01-10"): ([12, 10, 13], [14], [10, 11, 12, 13]),
        (2, "2020-01-10"): ([10], [11], [10]),
    }
