"""From a challenger that passed to the champion: registered, then moved alias by alias under the lease, champion last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from esans.bundle import Bundle, digest
from esans.columns import HISTORY, SERVE
from esans.config import build, to_dict
from esans.export.aliases import CHALLENGER, CHAMPION, promote
from esans.retrain.base import BUNDLE
from esans.retrain.errors import Locked
from esans.retrain.lease import Lease
from esans.settings import Settings
from esans.tracking import Run

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Tags of the registered model: the fencing token that published last with its lock, and the version that it made champion.
TOKEN, TOKEN_VERSION = "retrain_token", "retrain_champion"
_EXAMPLES, _EXAMPLE_ITEMS = 3, 5


def registered_version(client: MlflowClient, name: str, fingerprint: str) -> str | None:
    """The version that an earlier attempt registered for this export bundle; None where there is none."""
    from mlflow.exceptions import MlflowException

    try:
        found = client.search_model_versions(f"name = '{name}'")
    except MlflowException:
        return None
    versions = [int(one.version) for one in found if one.tags.get("fingerprint") == fingerprint and one.tags.get(BUNDLE)]
    return str(max(versions)) if versions else None


def register_challenger(
    client: MlflowClient, run: Run, settings: Settings, export: Bundle, prepare: Bundle, tags: Mapping[str, str]
) -> str:
    """The version of the export bundle, under the alias `challenger`; one that an earlier attempt registered is taken as it is.

    Args:
        client: of the registry.
        run: keeps the model as an artifact.
        settings: name of the model, and the method.
        export: what the model is made of.
        prepare: histories for the input example.
        tags: of the version, beside method, bundle and fingerprint.
    """
    from esans.export.registry import register

    name, fingerprint = settings.export.registry.name, str(export.manifest["fingerprint"])
    known = registered_version(client, name, fingerprint)
    if known is not None:
        client.set_registered_model_alias(name, CHALLENGER, known)
        return known
    all_tags = {"method": settings.method or "", BUNDLE: export.uri, "fingerprint": fingerprint, **tags}
    config = build(type(settings.export.registry), {**to_dict(settings.export.registry), "alias": CHALLENGER})
    with export.local("retriever") as folder:
        return register(run, folder, _examples(export, prepare), config, all_tags)


def publish(client: MlflowClient, name: str, version: str, lease: Lease) -> str | None:
    """Make a version the champion, if this process still holds the lease. Returns the champion until now, None for none.

    The registry cannot compare and set. So the token goes before the aliases, and is looked at again after them: a process that was
    paused for longer than its lease between two of these calls puts the newer champion back.

    Raises:
        Locked: another process holds the lease, or published under a higher token.
    """
    lease.verify()
    _refuse_stale(client, name, lease)
    mark(client, name, version, lease)
    lease.verify()
    before = promote(client, name, version)
    try:
        lease.verify()
        _refuse_stale(client, name, lease)
    except Locked:
        if _newest(client, name, lease) > lease.token:
            client.set_registered_model_alias(name, CHAMPION, client.get_registered_model(name).tags[TOKEN_VERSION])
        raise
    return before


def mark(client: MlflowClient, name: str, version: str, lease: Lease) -> None:
    """Write to the registered model which version this holder of the lease makes champion."""
    client.set_registered_model_tag(name, TOKEN_VERSION, version)
    client.set_registered_model_tag(name, TOKEN, f"{lease.token} {digest(lease.uri)}")


def _newest(client: MlflowClient, name: str, lease: Lease) -> int:
    """The token that published last under this lock; 0 for none. Tokens of the lock of another work directory do not compare."""
    token, _, lock = client.get_registered_model(name).tags.get(TOKEN, "0 ").partition(" ")
    return int(token) if lock == digest(lease.uri) else 0


def _refuse_stale(client: MlflowClient, name: str, lease: Lease) -> None:
    newest = _newest(client, name, lease)
    if newest > lease.token:
        raise Locked(f"models:/{name} was published under lease {newest}, and this process holds the older lease {lease.token}.")


def _examples(export: Bundle, prepare: Bundle) -> list[list[str]]:
    """A few short raw histories for the input example."""
    import pyarrow.dataset as pads

    from esans.columns import ITEM_ID, ITEM_IDX, SPLIT

    rows: list[dict[str, Any]] = []
    for batch in prepare.table("histories").dataset().to_batches(columns=[HISTORY], filter=pads.field(SPLIT) == SERVE):
        rows += batch.slice(0, _EXAMPLES - len(rows)).to_pylist()
        if len(rows) >= _EXAMPLES:
            break
    histories = [row[HISTORY][-_EXAMPLE_ITEMS:] for row in rows]
    wanted = sorted({item for history in histories for item in history})
    table = export.table("item_vectors").dataset().to_table(columns=[ITEM_IDX, ITEM_ID], filter=pads.field(ITEM_IDX).isin(wanted))
    names = dict(zip(table.column(0).to_pylist(), table.column(1).to_pylist(), strict=True))
    return [[names[item] for item in history] for history in histories]
