"""Which as-of days a call runs, in what order, and what it exits with."""

from __future__ import annotations

import datetime
from typing import Any

from esans.errors import ConfigError, EsansError
from esans.progress import say
from esans.retrain.errors import Locked
from esans.retrain.run import Retraining
from esans.retrain.state import State
from esans.settings import Source


def yesterday() -> datetime.date:
    """The last whole day in UTC."""
    return (datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)).date()


def parse_day(text: str) -> datetime.date:
    """An as-of day. Raises ConfigError where it is none."""
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--as-of {text}: must be a day such as 2026-11-20") from None


def missed(state: State, as_of: datetime.date, most: int) -> list[datetime.date]:
    """Days after the last one with a report and before the as-of day, rising, at most `most`; none where there is no earlier report."""
    before = [day for day in state.finished_days() if day < as_of]
    if not before:
        return []
    first = max(before[-1] + datetime.timedelta(days=1), as_of - datetime.timedelta(days=most))
    return [first + datetime.timedelta(days=place) for place in range((as_of - first).days)]


def retrain(source: Source, as_of: datetime.date, catch_up: bool = False) -> int:
    """Run the as-of day, and before it what was missed. Returns the exit code of the as-of day itself.

    A missed day that is refused or fails does not keep the later ones from their turn.

    Raises:
        Locked: another process retrains.
        EsansError: the as-of day was refused or failed.
    """
    last = Retraining(source, as_of)
    config = last.settings.retrain
    for day in missed(last.state, as_of, config.catch_up_days) if catch_up and config.catch_up == "every" else []:
        try:
            _one(Retraining(source, day))
        except Locked:
            raise
        except EsansError as error:
            say(f"missed day {day}: {error}")
    return _one(last)


def _one(retraining: Retraining) -> int:
    report: dict[str, Any] | None = retraining.done()
    if report is not None:
        say(f"{retraining.as_of}: nothing to do, this as-of day and configuration ended before: {report['outcome']}. {report['message']}")
        say(f"report:  {retraining.state.uri.removeprefix('file://')}/report.html")
        return int(report["exit_code"])
    return int(retraining.run()["exit_code"])
