"""Does the day look like the days before? Profiles against bounds; every finding names table, column, value and bound."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from esans.retrain.config import DriftConfig

_KEY = "retrain.drift"
_WEEKS = 4


@dataclass(frozen=True)
class Finding:
    """One figure of the day against its bound. `passed` is None where it is shown and not judged."""

    table: str
    column: str
    what: str
    value: float
    bound: str
    key: str
    passed: bool | None

    def describe(self) -> str:
        """For messages and reports."""
        column = f" column {self.column!r}:" if self.column else ""
        return f"{self.table}:{column} {self.what} = {self.value:.4g}, allowed {self.bound} ({self.key})"


def is_empty(profile: Mapping[str, Any], as_of: datetime.date) -> bool:
    """Whether the day has no interaction."""
    return str(as_of) not in profile["interactions"]["days"]


def empty_by_nature(profile: Mapping[str, Any], as_of: datetime.date, reference_days: int) -> bool:
    """Whether the same weekday had no interaction in any of the four weeks before, as far as the reference goes; at least one is needed."""
    weeks = min(_WEEKS, reference_days // 7)
    same = [str(as_of - datetime.timedelta(weeks=week)) for week in range(1, weeks + 1)]
    return bool(same) and bool(profile["interactions"]["days"]) and not any(day in profile["interactions"]["days"] for day in same)


def findings(profile: Mapping[str, Any], earlier: Mapping[str, Any] | None, config: DriftConfig, as_of: datetime.date) -> list[Finding]:
    """Judge a day that has interactions.

    Args:
        profile: of `esans.retrain.profile`.
        earlier: that of the last published run; None judges the items table by itself.
        config: the bounds.
        as_of: the day.
    """
    return [*_interactions(profile["interactions"], earlier, config, as_of), *_items(profile["items"], earlier, config)]


def psi(reference: Sequence[int], day: Sequence[int]) -> float:
    """Population stability index of two rows of counts over the same bins; half a row is put into empty bins, so it stays finite."""
    one, two = (np.maximum(np.asarray(counts, dtype=float), 0.5) for counts in (reference, day))
    one, two = one / one.sum(), two / two.sum()
    return float(((two - one) * np.log(two / one)).sum())


def _interactions(
    found: Mapping[str, Any], earlier: Mapping[str, Any] | None, config: DriftConfig, as_of: datetime.date
) -> Iterator[Finding]:
    check, day = _Checks("interactions", config), found["days"][str(as_of)]
    before = [entry for name, entry in found["days"].items() if name != str(as_of)]
    rows, total = day["rows"], sum(entry["rows"] for entry in before)
    if before:
        mean = total / len(before)
        yield check.between(f"rows of the day ({rows:,}) / mean of {len(before)} days ({mean:,.0f})", rows / mean, "rows_ratio")
        yield check.below("share of new users", day["new_users"] / max(day["users"], 1), "max_new_users")
        yield check.below("share of new items", day["new_items"] / max(day["items"], 1), "max_new_items")
    yield check.below("share of rows with an unknown item", day["unknown_items"] / rows, "max_unknown_items")
    for name, count in day["nulls"].items():
        usual = sum(entry["nulls"][name] for entry in before) / total if total else 0.0
        yield check.rise("share of nulls", count / rows, usual, "max_null_increase", name)
    if earlier is not None:
        new = max(found["unreadable_times"] - earlier["interactions"]["unreadable_times"], 0)
        yield check.below("new rows without a readable time / rows of the day", new / rows, "max_null_increase")
    usual = sum(entry["duplicates"] for entry in before) / total if total else 0.0
    yield check.rise("share of repeated rows", day["duplicates"] / rows, usual, "max_duplicate_increase")
    for name, sides in found["distributions"].items():
        yield check.stable(name, sides["reference"], sides["day"])


def _items(found: Mapping[str, Any], earlier: Mapping[str, Any] | None, config: DriftConfig) -> Iterator[Finding]:
    check, rows = _Checks("items", config), max(found["rows"], 1)
    old = earlier["items"] if earlier is not None and earlier["items"]["rows"] else None
    if old is None:
        yield check.rise("share of repeated or missing item ids", found["duplicates"] / rows, 0.0, "max_duplicate_increase")
        return
    of_old = old["rows"]
    yield check.between(f"rows ({found['rows']:,}) / rows of the last published run ({of_old:,})", found["rows"] / of_old, "items_ratio")
    usual = old["duplicates"] / of_old
    yield check.rise("share of repeated or missing item ids", found["duplicates"] / rows, usual, "max_duplicate_increase")
    for name, count in found["nulls"].items():
        if name in old["nulls"]:
            yield check.rise("share of nulls", count / rows, old["nulls"][name] / of_old, "max_null_increase", name)
    for name, shape in found["distributions"].items():
        if name in old["distributions"] and old["distributions"][name]["edges"] == shape["edges"]:
            yield check.stable(name, old["distributions"][name]["counts"], shape["counts"])


@dataclass(frozen=True)
class _Checks:
    """Figures of one table against the bounds of a config, by key."""

    table: str
    config: DriftConfig

    def below(self, what: str, value: float, key: str) -> Finding:
        """At most the bound."""
        bound = getattr(self.config, key)
        return Finding(self.table, "", what, value, f"<= {bound:g}", f"{_KEY}.{key}", value <= bound)

    def rise(self, what: str, value: float, usual: float, key: str, column: str = "") -> Finding:
        """At most the bound above what is usual."""
        rise = getattr(self.config, key)
        bound = f"<= {usual + rise:.4g} (usual {usual:.4g} + {rise:g})"
        return Finding(self.table, column, what, value, bound, f"{_KEY}.{key}", value <= usual + rise)

    def between(self, what: str, value: float, key: str) -> Finding:
        """Between min_<key> and max_<key>."""
        low, high = (getattr(self.config, f"{end}_{key}") for end in ("min", "max"))
        broken = f"min_{key}" if value < low else f"max_{key}"
        return Finding(self.table, "", what, value, f"{low:g} .. {high:g}", f"{_KEY}.{broken}", low <= value <= high)

    def stable(self, column: str, reference: Sequence[int], day: Sequence[int]) -> Finding:
        """The population stability index of a column."""
        config = self.config
        enough = min(sum(reference), sum(day)) >= config.psi_min_rows
        value = psi(reference, day) if sum(reference) and sum(day) else math.nan
        what = "population stability index" + ("" if enough else f" (not judged: fewer than {config.psi_min_rows} rows)")
        passed = value <= config.max_psi if enough else None
        return Finding(self.table, column, what, value, f"<= {config.max_psi:g}", f"{_KEY}.max_psi", passed)
