"""Back to the champion before."""

from __future__ import annotations

from esans.export.aliases import CHAMPION, current, rollback
from esans.retrain.base import AS_OF
from esans.retrain.lease import held
from esans.retrain.publish import mark
from esans.retrain.state import FOLDER
from esans.settings import Settings
from esans.tracking import resolve_uri
from esans.uri import canonical, join


def roll_back(settings: Settings) -> str:
    """Make `previous` the champion again, while no retraining runs. Returns what is served now, in words.

    Raises:
        Locked: a retraining runs.
        RegistryError: there is no previous version.
    """
    from mlflow import MlflowClient

    name, lock = settings.export.registry.name, settings.retrain.lock
    client = MlflowClient(resolve_uri(settings.tracking, settings.work_dir))
    with held(join(canonical(settings.work_dir), FOLDER, "lock"), "rollback", lock.lease_seconds, lock.wait_seconds) as lease:
        before = current(client, name, CHAMPION)
        version = rollback(client, name)
        # A publisher that slept through this must not restore what was taken back.
        mark(client, name, version, lease)
    day = client.get_model_version(name, version).tags.get(AS_OF)
    served = f"models:/{name}@{CHAMPION} is version {version}" + (f", as of {day}" if day else "")
    if before == version:
        return f"{served}: it was already, nothing was changed."
    return f"{served}; version {before} is no longer served."
