"""Which version serves: the aliases `challenger`, `previous` and `champion` of a registered model, moved so that one always does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esans.errors import EsansError

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHALLENGER, PREVIOUS, CHAMPION = "challenger", "previous", "champion"


class RegistryError(EsansError):
    """The registry holds no such model or version, or none to go back to."""


def current(client: MlflowClient, name: str, alias: str) -> str | None:
    """The version under an alias; None where the model or the alias is not there."""
    return aliases(client, name).get(alias)


def aliases(client: MlflowClient, name: str) -> dict[str, str]:
    """All aliases of a model with their versions, in one call; {} where the model is not there."""
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}
    return {alias: str(version) for alias, version in found.items()}


def promote(client: MlflowClient, name: str, version: str) -> str | None:
    """Make a version the champion: it becomes the challenger, the champion becomes the previous one, and champion moves last.

    A process that ends between two steps leaves a model under `champion`, the old one; called again, it completes the change.
    Called for the version that is champion already, it changes nothing.

    Args:
        client: of the registry.
        name: registered model.
        version: one of its versions.

    Returns:
        The version that was champion until now; None where there was none.

    Raises:
        RegistryError: the model has no such version.
    """
    version = str(version)
    _require(client, name, version)
    found = aliases(client, name)
    old = found.get(CHAMPION)
    if old == version:
        return old
    _move(client, name, CHALLENGER, version, found)
    if old is not None:
        _move(client, name, PREVIOUS, old, found)
    client.set_registered_model_alias(name, CHAMPION, version)
    return old


def rollback(client: MlflowClient, name: str) -> str:
    """Make the previous version the champion again. Called twice, the second call changes nothing.

    Args:
        client: of the registry.
        name: registered model.

    Returns:
        The version that serves now.

    Raises:
        RegistryError: no version is under `previous`.
    """
    found = aliases(client, name)
    previous = found.get(PREVIOUS)
    if previous is None:
        held = ", ".join(f"{alias} = {version}" for alias, version in sorted(found.items())) or "none"
        raise RegistryError(f"model {name!r} has no version under the alias {PREVIOUS!r} to go back to; its aliases: {held}.")
    _move(client, name, CHAMPION, previous, found)
    return previous


def _move(client: MlflowClient, name: str, alias: str, version: str, found: dict[str, str]) -> None:
    if found.get(alias) != version:
        client.set_registered_model_alias(name, alias, version)


def _require(client: MlflowClient, name: str, version: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.get_model_version(name, version)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise RegistryError(f"model {name!r} has no version {version!r} in the registry: register it with `esans export` first.") from None
