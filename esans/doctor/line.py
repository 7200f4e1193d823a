"""One line of the doctor's report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Line:
    """What was looked at, how it stands, and what to do about it."""

    name: str
    state: State
    found: str
    """What is there, in a few words."""
    cure: str = ""
    """What to do; empty where it is ok."""


def ok(name: str, found: str) -> Line:
    """All is well."""
    return Line(name, "ok", found)


def warn(name: str, found: str, cure: str) -> Line:
    """Works, but somebody will be surprised."""
    return Line(name, "warn", found, cure)


def fail(name: str, found: str, cure: str) -> Line:
    """A stage will stop on it."""
    return Line(name, "fail", found, cure)
