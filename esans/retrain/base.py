"""What a run builds on: the champion of the registry, and the bundles that it was made of, as explicit URIs."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from esans.bundle import Bundle
from esans.errors import EsansError
from esans.export.aliases import CHAMPION, current

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Tags of a registered version.
BUNDLE, AS_OF, STATE = "bundle", "as_of", "retrain_state"
# As-of day of the last full run that the version goes back to, and the items of its catalogue.
FULL_AS_OF, FULL_ITEMS = "full_as_of", "full_items"
# Stages whose earlier bundle the next run may start from.
STAGES = ("prepare", "features", "align", "cluster", "shards", "train")


class ChampionLost(EsansError):
    """The champion's bundles are gone, so nothing can be compared with it."""


@dataclass(frozen=True)
class Base:
    """The champion and its bundles by stage."""

    version: str
    bundles: Mapping[str, str]
    as_of: datetime.date | None = None
    """Of the run that made it; None where it was registered by hand."""
    state: str | None = None
    """Folder of that run."""
    full_as_of: datetime.date | None = None
    """As-of day of the last full run that it goes back to."""
    full_items: int = 0
    """Items of the catalogue of that run."""

    def dump(self) -> dict[str, Any]:
        """As JSON values."""
        return {name: str(value) if isinstance(value, datetime.date) else value for name, value in asdict(self).items()}

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Base:
        """The inverse of `dump`."""
        return cls(**{**values, "as_of": _day(values["as_of"]), "full_as_of": _day(values["full_as_of"])})


def find_base(client: MlflowClient, name: str) -> Base | None:
    """The champion of a registered model; None where there is none.

    Raises:
        ChampionLost: there is one, and its export bundle or one that it was made of is not there any more.
    """
    version = current(client, name, CHAMPION)
    if version is None:
        return None
    tags = client.get_model_version(name, version).tags
    export = Bundle.find(tags[BUNDLE]) if BUNDLE in tags else None
    train = Bundle.find(export.manifest["inputs"]["train"]) if export is not None else None
    if export is None or train is None:
        raise ChampionLost(
            f"models:/{name}@{CHAMPION} is version {version}, whose bundle {tags.get(BUNDLE, '(tag `bundle` is missing)')} or its train "
            "bundle is not there any more: it cannot be compared with a challenger.\n  Bring the bundles back, point the alias at a "
            "version that has its bundles, or remove the alias to publish whatever passes the absolute gates."
        )
    made_of = {stage: uri for stage, uri in train.manifest["inputs"].items() if stage in STAGES}
    bundles = {**made_of, "train": train.uri, "export": export.uri}
    full = (_day(tags.get(FULL_AS_OF)), int(tags.get(FULL_ITEMS, 0)))
    return Base(str(version), bundles, _day(tags.get(AS_OF)), tags.get(STATE), *full)


def _day(text: str | None) -> datetime.date | None:
    return None if text is None else datetime.date.fromisoformat(text)
