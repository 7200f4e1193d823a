"""What a run leaves in <work_dir>/retrain/<as-of>-<config digest>/; report.json is written last and says how it ended."""

from __future__ import annotations

import datetime
import json
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import fsspec

from esans.bundle import digest
from esans.config import to_dict
from esans.settings import Settings
from esans.uri import canonical, join, write_text

FOLDER = "retrain"
PUBLISHED, NOTHING, DATA_REFUSED, GATE_REFUSED, FAILED = "published", "nothing to do", "data refused", "gate refused", "failed"
# What a later run with the same as-of day and configuration exits with.
EXIT_CODES: Mapping[str, int] = {PUBLISHED: 0, NOTHING: 0, DATA_REFUSED: 3, GATE_REFUSED: 4, FAILED: 1}

_NAME = re.compile(r"(\d{4}-\d{2}-\d{2})-([0-9a-f]{16})")


@dataclass(frozen=True)
class State:
    """The folder of one as-of day under one configuration."""

    root: str
    as_of: datetime.date
    config_digest: str

    @classmethod
    def of(cls, settings: Settings, as_of: datetime.date) -> State:
        """Of settings as the user wrote them, before the as-of day is put into them."""
        covered = to_dict(settings, results_only=True)
        return cls(join(canonical(settings.work_dir), FOLDER), as_of, digest({**covered, "seed": settings.seed, "method": settings.method}))

    @property
    def uri(self) -> str:
        """The folder."""
        return join(self.root, f"{self.as_of}-{self.config_digest}")

    def read(self, name: str) -> dict[str, Any] | None:
        """A JSON document of the folder; None where it is not there."""
        try:
            with fsspec.open(join(self.uri, f"{name}.json"), "r") as stream:
                return dict(json.load(stream))
        except FileNotFoundError:
            return None

    def write(self, name: str, document: Mapping[str, Any]) -> None:
        """Write a JSON document whole or not at all."""
        write_text(join(self.uri, f"{name}.json"), json.dumps(document, indent=1, default=str))

    def forget(self, name: str) -> None:
        """Remove a JSON document, if it is there."""
        filesystem, path = fsspec.core.url_to_fs(join(self.uri, f"{name}.json"))
        if filesystem.exists(path):
            filesystem.rm_file(path)

    def finished_days(self) -> list[datetime.date]:
        """As-of days under this configuration that have a report, rising."""
        filesystem, path = fsspec.core.url_to_fs(self.root)
        if not filesystem.exists(path):
            return []
        found = [_NAME.fullmatch(posixpath.basename(name.rstrip("/"))) for name in filesystem.ls(path, detail=False)]
        days = [datetime.date.fromisoformat(match[1]) for match in found if match and match[2] == self.config_digest]
        return sorted(day for day in days if State(self.root, day, self.config_digest).read("report") is not None)
