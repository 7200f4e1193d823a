"""The users that all runs ranked, with their metrics in one order: what a paired test needs.

Memory: 8 bytes a user, metric and run; users that were ranked, not those of the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from esans.bundle import Bundle
from esans.columns import SPLIT, USER_ID, USER_IDX
from esans.compare.differences import differing
from esans.compare.runs import CompareError, Entry
from esans.config import flatten

_SHOWN_KEYS = 4


@dataclass(frozen=True)
class UserValues:
    """Users of one entry: (n,) keys, numbers of targets and of items seen before, and (n,) float64 values by metric."""

    keys: np.ndarray
    targets: np.ndarray
    seen: np.ndarray
    values: dict[str, np.ndarray]

    def pick(self, places: np.ndarray) -> UserValues:
        """The users at (m,) places, in that order."""
        values = {metric: column[places] for metric, column in self.values.items()}
        return UserValues(self.keys[places], self.targets[places], self.seen[places], values)


def metrics_of(entry: Entry) -> list[str]:
    """Metrics that an entry has user by user, in the order of its table."""
    schema = entry.bundle.table("per_user").dataset().schema
    fixed = {"method", SPLIT, USER_IDX, "targets", "seen"}
    return [name.replace("_at_", "@") for name in schema.names if name not in fixed]


def common_metrics(entries: Sequence[Entry], wanted: Sequence[str], shown_first: Sequence[str]) -> list[str]:
    """The metrics to compare: those wanted, or by default those of `shown_first` that all entries have, else all common ones.

    Raises:
        CompareError: an entry lacks a wanted metric, or the entries have none in common.
    """
    held = {entry.name: metrics_of(entry) for entry in entries}
    for metric in wanted:
        for name, metrics in held.items():
            if metric not in metrics:
                raise CompareError(f"run {name!r} has no metric {metric!r} of single users; it has {', '.join(metrics)}.")
    if wanted:
        return list(wanted)
    shared = [metric for metric in next(iter(held.values())) if all(metric in metrics for metrics in held.values())]
    if not shared:
        raise CompareError(
            "the runs have no metric in common: " + "; ".join(f"{name} has {', '.join(m)}" for name, m in held.items()) + "."
        )
    return [metric for metric in shown_first if metric in shared] or shared


def aligned(entries: Sequence[Entry], split: str, metrics: Sequence[str], common_only: bool) -> tuple[list[UserValues], list[str]]:
    """Values of the users that all entries have, in one order, and notes that a reader should see.

    Args:
        entries: the baseline first.
        split: validation or test.
        metrics: to read.
        common_only: compare the common users where the tested users, or the data they were split from, differ.

    Raises:
        CompareError: they differ and `common_only` is not set, or no user is common.
    """
    read = [_read(entry, split, metrics) for entry in entries]
    sources = {entry.prepare_uri.rsplit("/", 1)[-1] for entry in entries}
    if len(sources) > 1:
        # Indices of two prepare bundles need not mean the same users; their outside ids do.
        read = [_by_user_id(entry, users) for entry, users in zip(entries, read, strict=True)]
    common = read[0].keys
    for users in read[1:]:
        common = np.intersect1d(common, users.keys, assume_unique=True)
    common = np.sort(common)
    equal = len(sources) == 1 and all(len(users.keys) == len(common) for users in read)
    if not equal and not common_only:
        raise CompareError(_refusal(entries, read, split, len(common), len(sources)))
    if not len(common):
        raise CompareError(f"no user of the {split} split is common to all {len(entries)} runs: there is nothing to compare.")
    chosen = [_placed(users, common) for users in read]
    if equal:
        return chosen, []
    tested = ", ".join(f"{entry.name} {len(users.keys):,}" for entry, users in zip(entries, read, strict=True))
    notes = [f"Only the {len(common):,} users that all runs tested are compared (tested: {tested})."]
    other_task = np.any([users.targets != chosen[0].targets for users in chosen], axis=0)
    if other_task.any():
        notes.append(f"{int(other_task.sum()):,} of them have another number of targets in another run: their tasks differ.")
    return chosen, notes


def _read(entry: Entry, split: str, metrics: Sequence[str]) -> UserValues:
    import pyarrow.dataset as pads

    columns = [metric.replace("@", "_at_") for metric in metrics]
    mine = (pads.field("method") == entry.method) & (pads.field(SPLIT) == split)
    table = entry.bundle.table("per_user").dataset().to_table(columns=[USER_IDX, "targets", "seen", *columns], filter=mine)
    if not table.num_rows:
        raise CompareError(f"run {entry.name!r} has no users of split {split!r}: {entry.bundle.uri}")
    arrays = [column.to_numpy() for column in table.columns]
    return UserValues(arrays[0], arrays[1], arrays[2], dict(zip(metrics, arrays[3:], strict=True)))


def _by_user_id(entry: Entry, users: UserValues) -> UserValues:
    prepare = Bundle.find(entry.prepare_uri)
    if prepare is None:
        raise CompareError(
            f"run {entry.name!r} was evaluated on another prepare bundle than the others, and that is gone: {entry.prepare_uri}. "
            "Its users cannot be told."
        )
    order = np.argsort(users.keys)
    ids = np.empty(len(order), dtype=object)
    for batch in prepare.table("users").batches([USER_IDX, USER_ID]):
        index = batch.column(0).to_numpy(zero_copy_only=False)
        place = np.searchsorted(users.keys, index, sorter=order).clip(max=len(order) - 1)
        mine = users.keys[order[place]] == index
        ids[order[place[mine]]] = batch.column(1).to_numpy(zero_copy_only=False)[mine]
    return UserValues(ids.astype(str), users.targets, users.seen, users.values)


def _placed(users: UserValues, common: np.ndarray) -> UserValues:
    order = np.argsort(users.keys)
    return users.pick(order[np.searchsorted(users.keys, common, sorter=order)])


def _refusal(entries: Sequence[Entry], read: Sequence[UserValues], split: str, common: int, sources: int) -> str:
    tested = ", ".join(f"{entry.name} {len(users.keys):,}" for entry, users in zip(entries, read, strict=True))
    where = f"the runs were evaluated on {sources} different prepare bundles" if sources > 1 else "the runs tested different users"
    keys = [name for name, _ in differing([_prepare_config(entry) for entry in entries])]
    shown = ", ".join(keys[:_SHOWN_KEYS]) + (f" and {len(keys) - _SHOWN_KEYS} more" if len(keys) > _SHOWN_KEYS else "")
    return (
        f"{where}: users of the {split} split: {tested}; {common:,} are common to all."
        + (f" Their configurations differ in {shown}." if keys else "")
        + "\n  Compare runs of one split, or add --common-users to compare the common users alone."
    )


def _prepare_config(entry: Entry) -> dict[str, Any]:
    prepare = Bundle.find(entry.prepare_uri) if entry.prepare_uri else None
    return flatten(prepare.manifest["config"], "prepare.") if prepare is not None else {}
