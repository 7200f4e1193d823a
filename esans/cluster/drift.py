"""Whether kept codes still fit the vectors, and what was decided: the codes stay, or the clusters are fitted again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from esans.cluster.build import Built, Task, build
from esans.cluster.frozen import Unkept, build_frozen
from esans.cluster.previous import Previous
from esans.progress import say

if TYPE_CHECKING:
    from esans.bundle import Bundle
    from esans.cluster.config import DriftConfig
    from esans.cluster.sample import Sample

_ROWS = 65_536


@dataclass(frozen=True)
class Basis:
    """What the codebooks were fitted on: what later vectors are compared with."""

    items: int
    """Items with a vector."""
    distance: float
    """Mean squared distance to the centroid of the own primary."""

    @classmethod
    def of(cls, previous: Bundle) -> Basis | None:
        """That of an earlier bundle; None where it was written before this was recorded."""
        found = previous.facts.get("basis")
        return cls(int(found["items"]), float(found["distance"])) if found else None


@dataclass(frozen=True)
class Outcome:
    """A build, and why it was made that way."""

    built: Built
    kind: str
    """`fitted`, `kept` (every old code, new items assigned) or `refitted` (from the earlier codebooks)."""
    reason: str
    basis: Basis

    def facts(self) -> dict[str, Any]:
        """For the manifest."""
        return {"decision": {"kind": self.kind, "reason": self.reason}, "basis": asdict(self.basis)}


def fit(task: Task, reason: str, kind: str = "fitted", drift: Mapping[str, float] | None = None) -> Outcome:
    """Fit the codebooks, from those of an earlier build where there is one."""
    built = build(task)
    built.figures.update(drift or {})
    return Outcome(built, kind, reason, Basis(task.source.rows, sample_distance(built.sample, built)))


def keep_or_fit(task: Task, previous: Previous, bundle: Bundle) -> Outcome:
    """Keep every code and assign what is new; fit again where `drift` says so.

    Raises:
        DataError: codes can't be kept, and `drift.action` is `stop`.
    """
    config, basis = task.config.drift, Basis.of(bundle)
    try:
        built = build_frozen(task, previous)
    except Unkept as unkept:
        if config.action == "stop":
            raise
        return _again(task, str(unkept).splitlines()[0].removeprefix("cluster.assign_only: "), {})
    figures = drift_figures(built.figures, task.source.rows, basis)
    built.figures.update(figures)
    broken = reasons(figures, built, task) if config.action == "rebuild" else []
    if broken:
        built.codes.unpersist()
        return _again(task, "; ".join(broken), figures)
    new = built.figures["assign_only.new"]
    reason = f"{new:,.0f} new items assigned" + ("" if config.action == "stop" else ", within the bounds of cluster.drift")
    return Outcome(built, "kept", reason, basis or Basis(int(built.figures["assign_only.kept"]), built.figures["assign_only.distance"]))


def drift_figures(found: Mapping[str, float], rows: int, basis: Basis | None) -> dict[str, float]:
    """`drift.moved`, and, where it is known what the codebooks were fitted on, `drift.new` and `drift.distance`."""
    figures = {"drift.moved": 1 - found["assign_only.agreement"]}
    if basis is not None:
        figures["drift.new"] = max(rows - basis.items, 0) / max(rows, 1)
        figures["drift.distance"] = found["assign_only.distance"] / max(basis.distance, 1e-12) - 1
    return figures


def reasons(figures: Mapping[str, float], built: Built, task: Task) -> list[str]:
    """One clause for every bound that is broken."""
    config: DriftConfig = task.config.drift
    words = {
        "new": "of the items came since the codebooks were fitted",
        "moved": "of the old items are nearer to another primary",
        "distance": "more distance to the own centroid than when the codebooks were fitted",
    }
    found = [
        f"{figures[f'drift.{name}']:.1%} {what}, cluster.drift.max_{name} = {getattr(config, f'max_{name}'):g}"
        for name, what in words.items()
        if figures.get(f"drift.{name}", 0.0) > getattr(config, f"max_{name}")
    ]
    sizes = built.cells.sizes
    if sizes.max() > task.config.repair.largest * sizes.mean():
        found.append(f"the largest primary has {sizes.max() / sizes.mean():.1f} times the mean, more than cluster.repair.largest")
    return found


def sample_distance(sample: Sample, built: Built) -> float:
    """Mean squared distance of the sampled items to the centroid of their primary."""
    book, total = built.books.primaries, 0.0
    for start in range(0, len(sample.item), _ROWS):
        part = slice(start, start + _ROWS)
        own = book.centroids[book.assign(sample.item[part], sample.mean[part])]
        total += float(np.square(sample.mean[part].astype(np.float64) - own).sum())
    return total / max(len(sample.item), 1)


def _again(task: Task, why: str, figures: Mapping[str, float]) -> Outcome:
    say(f"  clusters are fitted again: {why}")
    return fit(task, why, "refitted", figures)
