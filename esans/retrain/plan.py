"""What one run does: the settings of its as-of day, on top of which bundles, incremental or from the start; fixed at its first attempt."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

from esans.errors import ConfigError
from esans.retrain.base import Base
from esans.settings import Settings, Source

INCREMENTAL, FULL = "incremental", "full"


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

    mode: str
    why: str
    base: Base | None

    def dump(self) -> dict[str, Any]:
        """As JSON values."""
        return {"mode": self.mode, "why": self.why, "base": self.base.dump() if self.base else None}

    @classmethod
    def parse(cls, values: dict[str, Any]) -> RunPlan:
        """The inverse of `dump`."""
        return cls(values["mode"], values["why"], Base.parse(values["base"]) if values["base"] else None)

    def settings(self, source: Source, method: str, as_of: datetime.date) -> Settings:
        """The settings of the run: the as-of day, the window and the earlier bundles put over what the user wrote."""
        written = source.load(method)
        over = [*dated(written, as_of), "--export.registry.register=false"]
        if self.base is not None:
            over += [f"--prepare.previous={self.base.bundles['prepare']}"]
        return Source(source.files, (*source.overrides, *over)).load(method)


def dated(settings: Settings, as_of: datetime.date) -> list[str]:
    """Overrides that end the data with the as-of day and keep the window from training."""
    keys = {
        "until": f"'{as_of + datetime.timedelta(days=1)}'",
        "split.method": "last_days",
        "split.validation_from": "null",
        "split.test_from": "null",
        "split.validation_days": settings.retrain.validation_days,
        "split.test_days": settings.retrain.window_days,
    }
    return [f"--prepare.{key}={value}" for key, value in keys.items()]
