"""What is known of one as-of day's run, as its report says it."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from esans.retrain.drift import Finding
from esans.retrain.gates import Verdict
from esans.retrain.state import EXIT_CODES, FAILED


@dataclass
class Record:
    """What the report says, filled in as the run goes on."""

    as_of: datetime.date
    config_digest: str
    model: str
    method: str
    state: str
    outcome: str = FAILED
    message: str = ""
    mode: str = ""
    why: str = ""
    champion_before: str | None = None
    champion: str | None = None
    challenger: str | None = None
    base: dict[str, Any] | None = None
    bundles: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    sources: dict[str, Any] = field(default_factory=dict)
    drift: list[Finding] = field(default_factory=list)
    gates: list[Verdict] = field(default_factory=list)
    by_day: dict[str, dict[str, float]] = field(default_factory=dict)
    mlflow_run_id: str | None = None
    started: float = field(default_factory=time.time)

    def document(self) -> dict[str, Any]:
        """As JSON values; numbers that are not finite become null."""
        values = {**asdict(self), "as_of": str(self.as_of), "exit_code": EXIT_CODES[self.outcome]}
        values["seconds"]["all"] = round(time.time() - self.started, 1)
        return dict(_plain(values))

    def timed(self, name: str, since: float) -> None:
        """Note the seconds of a part."""
        self.seconds[name] = round(time.time() - since, 1)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    return value.item() if hasattr(value, "item") else value
