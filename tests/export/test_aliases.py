"""The aliases of a registered model, in a real MLflow store, with processes that are killed between two steps."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from esans.export.aliases import CHALLENGER, CHAMPION, PREVIOUS, RegistryError, aliases, current, promote, rollback

NAME = "served"

# Promotes version 3 in a child process a store; each ends as by kill -9 right after so many steps. One import of MLflow serves all.
KILLED = """
import os, signal, sys
from mlflow import MlflowClient
from esans.export.aliases import promote

def killed_after(steps, uri):
    class Killed(MlflowClient):
        done = 0

        def set_registered_model_alias(self, *arguments):
            super().set_registered_model_alias(*arguments)
            Killed.done += 1
            if Killed.done == steps:
                os.kill(os.getpid(), signal.SIGKILL)

    promote(Killed(uri), "served", "3")

for steps, uri in enumerate(sys.argv[1:], 1):
    child = os.fork()
    if not child:
        killed_after(steps, uri)
        os._exit(0)
    print(os.WTERMSIG(os.waitpid(child, 0)[1]))
"""


def three_versions(uri: str) -> MlflowClient:
    """A store with a model of three versions and no alias."""
    client = MlflowClient(uri)
    client.create_registered_model(NAME)
    for version in range(3):
        client.create_model_version(NAME, f"file:///models/{version}")
    return client


@pytest.fixture
def client(tmp_path: Path, new_store: Callable[[Path], str]) -> MlflowClient:
    return three_versions(new_store(tmp_path))


def test_the_first_promotion_makes_a_champion_and_no_previous(client: MlflowClient) -> None:
    assert current(client, NAME, CHAMPION) is None
    assert promote(client, NAME, "1") is None
    assert aliases(client, NAME) == {CHALLENGER: "1", CHAMPION: "1"}


def test_promotion_keeps_what_served_before_and_changes_nothing_when_repeated(client: MlflowClient) -> None:
    promote(client, NAME, "1")
    assert promote(client, NAME, "2") == "1"
    expected = {CHALLENGER: "2", PREVIOUS: "1", CHAMPION: "2"}
    assert aliases(client, NAME) == expected
    client.set_registered_model_alias(NAME, CHALLENGER, "3")
    assert promote(client, NAME, "2") == "2"
    assert aliases(client, NAME) == {**expected, CHALLENGER: "3"}


def test_rollback_brings_the_previous_version_back_and_changes_nothing_when_repeated(client: MlflowClient) -> None:
    promote(client, NAME, "1")
    promote(client, NAME, "2")
    for _ in range(2):
        assert rollback(client, NAME) == "1"
        assert current(client, NAME, CHAMPION) == "1"
    assert promote(client, NAME, "3") == "1"
    assert rollback(client, NAME) == "1"


def test_a_promotion_killed_after_any_step_leaves_a_served_model_and_the_next_one_completes_it(
    tmp_path: Path, new_store: Callable[[Path], str]
) -> None:
    clients = [three_versions(new_store(tmp_path / str(steps))) for steps in (1, 2, 3)]
    for client in clients:
        promote(client, NAME, "1")
        promote(client, NAME, "2")
    command = [sys.executable, "-c", KILLED, *(client.tracking_uri for client in clients)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=200)
    assert done.stdout.split() == [str(int(signal.SIGKILL))] * 3
    assert [current(client, NAME, CHAMPION) for client in clients] == ["2", "2", "3"]
    assert [current(client, NAME, PREVIOUS) for client in clients] == ["1", "2", "2"]
    for client in clients:
        promote(client, NAME, "3")
        assert aliases(client, NAME) == {CHALLENGER: "3", PREVIOUS: "2", CHAMPION: "3"}
        assert rollback(client, NAME) == "2"


def test_a_version_or_a_previous_one_that_is_not_there_is_named(client: MlflowClient) -> None:
    with pytest.raises(RegistryError) as missing:
        promote(client, NAME, "9")
    assert str(missing.value) == "model 'served' has no version '9' in the registry: register it with `esans export` first."
    with pytest.raises(RegistryError):
        promote(client, "other", "1")
    promote(client, NAME, "1")
    with pytest.raises(RegistryError) as nothing:
        rollback(client, NAME)
    assert str(nothing.value) == (
        "model 'served' has no version under the alias 'previous' to go back to; its aliases: challenger = 1, champion = 1."
    )
    assert current(client, "other", CHAMPION) is None
