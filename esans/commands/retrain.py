"""`esans retrain`: the scheduled run of one as-of day."""

from __future__ import annotations

import sys

from esans.commands.arguments import parse
from esans.environment import check_pins
from esans.errors import ConfigError

_ABOUT = """Retrain as of a day (UTC), compare with the champion over a trailing window, and publish what is not worse.
  --as-of DAY        last day of the data, such as 2026-11-20; by default yesterday
  --catch-up         first the days that were missed since the last report (retrain.catch_up)

Exit codes: 0 published or nothing to do, 1 error, 2 configuration, 3 data refused, 4 gate refused, 5 locked."""


def run(arguments: list[str]) -> None:
    """Retrain; exits with one of the codes above."""
    as_of, catch_up, rest = _own(arguments)
    source = parse(rest, "esans retrain", _ABOUT)
    if source is None:
        return
    from esans.retrain.schedule import parse_day, retrain, yesterday

    day = parse_day(as_of) if as_of is not None else yesterday()
    source.load()
    check_pins()
    code = retrain(source, day, catch_up)
    if code:
        sys.exit(code)


def _own(arguments: list[str]) -> tuple[str | None, bool, list[str]]:
    """(--as-of, --catch-up, what is left)."""
    as_of, catch_up, rest = None, False, []
    given = iter(arguments)
    for argument in given:
        if argument == "--as-of":
            as_of = next(given, None)
            if as_of is None:
                raise ConfigError("--as-of needs a day: --as-of 2026-11-20")
        elif argument.startswith("--as-of="):
            as_of = argument.removeprefix("--as-of=")
        elif argument == "--catch-up":
            catch_up = True
        else:
            rest.append(argument)
    return as_of, catch_up, rest
