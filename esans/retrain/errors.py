"""What ends a retraining run without a new champion, each with an exit code of its own."""

from __future__ import annotations

from esans.errors import DataError, EsansError, GateError


class DataRefused(DataError):
    """The day's data are empty, corrupt or too different from those before: nothing was changed."""

    exit_code = 3


class GateRefused(GateError):
    """The challenger did not show that it is good enough: nothing was changed."""

    exit_code = 4


class Locked(EsansError):
    """Another retraining holds the work directory, or took it over from this one."""

    exit_code = 5
