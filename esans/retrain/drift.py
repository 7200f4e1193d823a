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


def findings(
    profile: Mapping[str, Any], earlier: Mapping[str, Any] | None, config: DriftConfig, as_of: datetime.date
) -> list[Finding]:
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
    table, day = "interactions", found["days"][str(as_of)]
    before = [entry for name, entry in found["days"].items() if name != str(as_of)]
    rows = day["rows"]
    mean = float(np.mean([entry["rows"] for entry in before])) if before else math.nan
    if before:
        yield _between(table, "", f"rows of the day ({rows:,}) / mean of {len(before)} days ({mean:,.0f})", rows / mean,
                       config.min_rows_ratio, config.max_rows_ratio, "min_rows_ratio", "max_rows_ratio")
        for kind, bound in (("users", "max_new_users"), ("items", "max_new_items")):
            share = day[f"new_{kind}"] / max(day[kind], 1)
            yield _below(table, "", f"share of new {kind}", share, getattr(config, bound), bound)
    yield _below(table, "", "share of rows with an unknown item", day["unknown_items"] / rows, config.max_unknown_items, "max_unknown_items")
    total = sum(entry["rows"] for entry in before)
    for name, count in day["nulls"].items():
        usual = sum(entry["nulls"][name] for entry in before) / total if total else 0.0
        yield _rise(table, name, "share of nulls", count / rows, usual, config.max_null_increase, "max_null_increase")
    unreadable = found["unreadable_times"] - (earlier["interactions"]["unreadable_times"] if earlier is not None else 0)
    if earlier is not None:
        yield _below(table, "", "new rows without a readable time / rows of the day", max(unreadable, 0) / rows,
                     config.max_null_increase, "max_null_increase")
    usual = sum(entry["duplicates"] for entry in before) / total if total else 0.0
    yield _rise(table, "", "share of repeated rows", day["duplicates"] / rows, usual, config.max_duplicate_increase, "max_duplicate_increase")
    for name, sides in found["distributions"].items():
        yield _stable(table, name, sides["reference"], sides["day"], config)


def _items(found: Mapping[str, Any], earlier: Mapping[str, Any] | None, config: DriftConfig) -> Iterator[Finding]:
    table, rows = "items", found["rows"]
    old = earlier["items"] if earlier is not None else None
    if old is not None and old["rows"]:
        yield _between(table, "", f"rows ({rows:,}) / rows of the last published run ({old['rows']:,})", rows / old["rows"],
                       config.min_items_ratio, config.max_items_ratio, "min_items_ratio", "max_items_ratio")
    usual = old["duplicates"] / old["rows"] if old is not None and old["rows"] else 0.0
    yield _rise(table, "", "share of repeated or missing item ids", found["duplicates"] / max(rows, 1), usual,
                config.max_duplicate_increase, "max_duplicate_increase")
    if old is None:
        return
    for name, count in found["nulls"].items():
        if name in old["nulls"]:
            yield _rise(table, name, "share of nulls", count / max(rows, 1), old["nulls"][name] / max(old["rows"], 1),
                        config.max_null_increase, "max_null_increase")
    for name, shape in found["distributions"].items():
        if name in old["distributions"] and old["distributions"][name]["edges"] == shape["edges"]:
            yield _stable(table, name, old["distributions"][name]["counts"], shape["counts"], config)


def _below(table: str, column: str, what: str, value: float, bound: float, key: str) -> Finding:
    return Finding(table, column, what, value, f"<= {bound:g}", f"{_KEY}.{key}", value <= bound)


def _rise(table: str, column: str, what: str, value: float, usual: float, rise: float, key: str) -> Finding:
    return Finding(table, column, what, value, f"<= {usual + rise:.4g} (usual {usual:.4g} + {rise:g})", f"{_KEY}.{key}", value <= usual + rise)


def _between(table: str, column: str, what: str, value: float, low: float, high: float, low_key: str, high_key: str) -> Finding:
    key = low_key if value < low else high_key
    return Finding(table, column, what, value, f"{low:g} .. {high:g}", f"{_KEY}.{key}", low <= value <= high)


def _stable(table: str, column: str, reference: Sequence[int], day: Sequence[int], config: DriftConfig) -> Finding:
    enough = min(sum(reference), sum(day)) >= config.psi_min_rows
    value = psi(reference, day) if sum(reference) and sum(day) else math.nan
    what = "population stability index" + ("" if enough else f" (not judged: fewer than {config.psi_min_rows} rows)")
    return Finding(table, column, what, value, f"<= {config.max_psi:g}", f"{_KEY}.max_psi", value <= config.max_psi if enough else None)
