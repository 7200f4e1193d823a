"""Publication in a real MLflow store: under the lease, never by a process that lost it, and what a rollback says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from esans.config import build
from esans.export.aliases import CHAMPION, PREVIOUS, RegistryError, aliases, current
from esans.retrain.errors import Locked
from esans.retrain.lease import Lease
from esans.retrain.publish import publish
from esans.retrain.rollback import roll_back
from esans.settings import Settings

NAME = "served"


@pytest.fixture
def client(tmp_path: Path, new_store: Callable[[Path], str]) -> MlflowClient:
    client = MlflowClient(new_store(tmp_path))
    client.create_registered_model(NAME)
    for version in range(1, 5):
        client.create_model_version(NAME, f"file:///models/{version}", tags={"as_of": f"2026-11-1{version}"})
    return client


def lease(tmp_path: Path) -> Lease:
    return Lease(str(tmp_path / "retrain" / "lock"), "test", 60).acquire()


def test_each_publication_moves_the_champion_and_keeps_the_one_before(client: MlflowClient, tmp_path: Path) -> None:
    for version, before in (("1", None), ("2", "1"), ("2", "2")):
        mine = lease(tmp_path)
        assert publish(client, NAME, version, mine) == before
        mine.release()
    assert aliases(client, NAME) == {"challenger": "2", PREVIOUS: "1", CHAMPION: "2"}


def test_a_process_that_lost_the_lease_changes_nothing(client: MlflowClient, tmp_path: Path) -> None:
    paused = lease(tmp_path)
    lose(paused)
    newer = lease(tmp_path)
    publish(client, NAME, "2", newer)
    with pytest.raises(Locked, match="lost the lease 1"):
        publish(client, NAME, "1", paused)
    assert current(client, NAME, CHAMPION) == "2"
    newer.release()


def test_a_new_work_directory_publishes_although_its_numbers_start_again(client: MlflowClient, tmp_path: Path) -> None:
    for version in ("1", "2"):
        mine = lease(tmp_path)
        publish(client, NAME, version, mine)
        mine.release()
    moved = lease(tmp_path / "elsewhere")
    assert moved.token == 1
    assert publish(client, NAME, "3", moved) == "2"
    moved.release()


class _Paused(MlflowClient):
    """Sleeps through its lease right before the alias `champion` moves, while another process publishes."""

    meanwhile: Callable[[], Any]

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        if alias == CHAMPION and version == "1":
            self.meanwhile()
        super().set_registered_model_alias(name, alias, version)


def test_a_pause_between_the_last_look_and_the_alias_ends_with_the_newer_champion(client: MlflowClient, tmp_path: Path) -> None:
    paused, sleeper = lease(tmp_path), _Paused(client.tracking_uri)

    def meanwhile() -> None:
        lose(paused)
        publish(client, NAME, "3", lease(tmp_path))

    sleeper.meanwhile = meanwhile
    with pytest.raises(Locked):
        publish(sleeper, NAME, "1", paused)
    assert current(client, NAME, CHAMPION) == "3"


def lose(paused: Lease) -> None:
    """As a pause that is longer than the lease."""
    assert paused._held is not None
    paused._stop.set()
    paused._write(replace(paused._held, beat=0.0))


def test_rollback_says_what_is_served_now_and_waits_for_no_running_retraining(client: MlflowClient, tmp_path: Path) -> None:
    settings = build(
        Settings, {"work_dir": str(tmp_path), "export": {"registry": {"name": NAME}}, "tracking": {"uri": client.tracking_uri}}
    )
    for version in ("1", "2"):
        mine = lease(tmp_path)
        publish(client, NAME, version, mine)
        mine.release()
    assert roll_back(settings) == f"models:/{NAME}@champion is version 1, as of 2026-11-11; version 2 is no longer served."
    assert roll_back(settings).endswith("it was already, nothing was changed.")
    running = lease(tmp_path)
    with pytest.raises(Locked):
        roll_back(settings)
    running.release()


def test_a_rollback_without_a_previous_version_changes_nothing(client: MlflowClient, tmp_path: Path) -> None:
    settings = build(
        Settings, {"work_dir": str(tmp_path), "export": {"registry": {"name": NAME}}, "tracking": {"uri": client.tracking_uri}}
    )
    with pytest.raises(RegistryError, match="previous"):
        roll_back(settings)
    assert aliases(client, NAME) == {}
