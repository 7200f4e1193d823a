"""Whether a day is trained from the start or on top of the champion: a rule over a few numbers, and the keys that follow from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from esans.config import Fraction, PositiveInt, config, flatten

# What differs from day to day by nature, or says nothing about what a model is.
_DAILY = (
    "prepare.until",
    "prepare.previous",
    "prepare.log.",
    "prepare.split.",
    "prepare.max_rejected_share",
    "features.previous",
    "features.keep_space",
    "align.previous",
    "cluster.previous",
    "cluster.assign_only",
    "cluster.drift.",
    "train.warm_start",
    "train.keep_optimizer",
    "train.epochs",
    "train.patience",
)


@config
class FullConfig:
    """Keys under `retrain.full`: when a day is trained from the start instead of on top of the champion."""

    every_days: PositiveInt = 7
    """Days after which the next run is a full one; 1 trains in full every day. At least 1."""
    max_new_items: Fraction = 0.2
    """Items that are new since the last full run, as a share of the catalogue, above which the next run is a full one. 0 to 1."""
    max_moved: Fraction = 0.5
    """Share of the items whose nearest cluster was another than the one they had in the last run, above which the next run is a full
    one: by then the frozen space and the clusters describe another catalogue. 0 to 1."""


@dataclass(frozen=True)
class Decision:
    """What a day is."""

    kind: Literal["full", "incremental"]
    reason: str


def full_or_incremental(
    rule: FullConfig,
    *,
    days_since_full: int | None,
    new_items: float,
    moved: float | None = None,
    changed: Sequence[str] = (),
) -> Decision:
    """The first reason for a full run in the order below, or an incremental one.

    Args:
        rule: the bounds.
        days_since_full: days from the last full run to this one; None where there is nothing to go on from.
        new_items: items that are new since the last full run, as a share of the catalogue of today.
        moved: share of the items that would be in another cluster by now; None where it is not known.
        changed: keys that make another model than the champion (`changed_keys`).
    """
    if days_since_full is None:
        return Decision("full", "there is no model to go on from")
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        return Decision("full", f"the configuration changed: {', '.join(changed[:3])}{more}")
    if days_since_full >= rule.every_days:
        return Decision("full", f"{days_since_full} days since the last full run, retrain.full.every_days = {rule.every_days}")
    if new_items > rule.max_new_items:
        return Decision("full", f"{new_items:.1%} of the items are new, retrain.full.max_new_items = {rule.max_new_items:.0%}")
    if moved is not None and moved > rule.max_moved:
        return Decision("full", f"{moved:.1%} of the items left their cluster, retrain.full.max_moved = {rule.max_moved:.0%}")
    return Decision(
        "incremental", f"{days_since_full} days since the last full run, {new_items:.1%} new items, and the configuration is the same"
    )


def changed_keys(before: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Keys under which the champion was made otherwise, those aside that differ from day to day.

    Args:
        before: the `config` of the manifest of each stage of the champion, by stage.
        now: the sections of today, with `to_dict(section, results_only=True)`; stages that `before` lacks are passed over.
    """
    found = []
    for stage, section in now.items():
        if stage not in before:
            continue
        old, new = flatten(before[stage], f"{stage}."), flatten(section, f"{stage}.")
        found += [key for key in sorted({*old, *new}) if old.get(key) != new.get(key) and not key.startswith(_DAILY)]
    return found


def overrides(kind: Literal["full", "incremental"], bundles: Mapping[str, str]) -> dict[str, Any]:
    """The keys that put a run on top of the bundles of the champion.

    A full run keeps the numbers of items, users and clusters and nothing else. An incremental one keeps the spaces too, and goes on from
    the weights.

    Args:
        kind: of the decision.
        bundles: URIs by stage; a stage that is missing starts anew.
    """
    found: dict[str, Any] = {f"{stage}.previous": bundles[stage] for stage in ("prepare", "features", "cluster") if stage in bundles}
    if kind == "full":
        return found
    found |= {"prepare.log.extend": True, "features.keep_space": True, "align.previous": bundles["align"], "align.previous_mode": "frozen"}
    found |= {"cluster.assign_only": True, "cluster.drift.action": "rebuild", "train.warm_start": bundles["train"]}
    return found
