"""What one run does: the settings of its as-of day, on top of which bundles, incremental or from the start; fixed at its first attempt."""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass
from typing import Any, Literal

from esans.bundle import Bundle
from esans.config import to_dict
from esans.errors import ConfigError
from esans.retrain.base import FULL_AS_OF, FULL_ITEMS, STAGES, Base
from esans.retrain.rules import changed_keys, full_or_incremental, overrides
from esans.settings import Settings, Source


def method_of(settings: Settings) -> str:
    """The one method that is retrained. Raises ConfigError where several could be meant."""
    if settings.retrain.method or settings.method:
        return str(settings.retrain.method or settings.method)
    if len(settings.pipeline.methods) == 1:
        return settings.pipeline.methods[0]
    raise ConfigError(f"retrain.method: name one of pipeline.methods = {settings.pipeline.methods}; only one model is published.")


@dataclass(frozen=True)
class RunPlan:
    """How the as-of day is trained."""

    kind: Literal["full", "incremental"]
    reason: str
    base: Base | None

    @classmethod
    def decide(cls, settings: Settings, base: Base | None, as_of: datetime.date, items: int) -> RunPlan:
        """By the rule of `retrain.full`.

        Args:
            settings: of the as-of day, without the champion's bundles.
            base: the champion; None where there is none.
            as_of: the day.
            items: rows of today's items table.
        """
        if base is None:
            return cls("full", full_or_incremental(settings.retrain.full, days_since_full=None, new_items=0.0).reason, None)
        bundles = {stage: Bundle.open(uri) for stage, uri in base.bundles.items() if stage in STAGES}
        before = {stage: bundle.manifest["config"] for stage, bundle in bundles.items()}
        now = {stage: to_dict(getattr(settings, stage), results_only=True) for stage in before}
        # A champion that no retraining made may go back to a full run of any age.
        since = None if base.full_as_of is None else (as_of - base.full_as_of).days
        decision = full_or_incremental(
            settings.retrain.full,
            days_since_full=since,
            new_items=max(items - base.full_items, 0) / max(items, 1),
            moved=bundles["cluster"].figures.get("drift.moved") if "cluster" in bundles else None,
            changed=changed_keys(before, now),
        )
        return cls(decision.kind, decision.reason, base)

    def dump(self) -> dict[str, Any]:
        """As JSON values."""
        return {"kind": self.kind, "reason": self.reason, "base": self.base.dump() if self.base else None}

    @classmethod
    def parse(cls, values: dict[str, Any]) -> RunPlan:
        """The inverse of `dump`."""
        return cls(values["kind"], values["reason"], Base.parse(values["base"]) if values["base"] else None)

    def settings(self, source: Source, method: str, as_of: datetime.date) -> Settings:
        """The settings of the run: the as-of day, the window and the earlier bundles put over what the user wrote."""
        written = source.load(method)
        over = [*dated(written, as_of), "--export.registry.register=false"]
        if self.base is not None:
            over += [f"--{key}={json.dumps(value)}" for key, value in overrides(self.kind, self.base.bundles).items()]
        if self.kind == "incremental" and written.retrain.incremental_epochs is not None:
            over.append(f"--train.epochs={written.retrain.incremental_epochs}")
        return Source(source.files, (*source.overrides, *over)).load(method)

    def lineage(self, as_of: datetime.date, num_items: int) -> dict[str, str]:
        """Tags that tell the next run how far back the last full one lies."""
        again = self.kind == "incremental" and self.base is not None
        day, items = (self.base.full_as_of, self.base.full_items) if again and self.base else (as_of, num_items)
        return {FULL_AS_OF: str(day), FULL_ITEMS: str(items)}


def dated(settings: Settings, as_of: datetime.date) -> list[str]:
    """Overrides that end the data with the as-of day and keep the window from training."""
    keys = {
        "log.write": "true",
        "until": f"'{as_of + datetime.timedelta(days=1)}'",
        "split.method": "last_days",
        "split.validation_from": "null",
        "split.test_from": "null",
        "split.validation_days": settings.retrain.validation_days,
        "split.test_days": settings.retrain.window_days,
    }
    return [f"--prepare.{key}={value}" for key, value in keys.items()]
