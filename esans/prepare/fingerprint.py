"""What the raw tables are right now, without Spark: digests of small files, names and times of large ones."""

from __future__ import annotations

import glob
import hashlib
import posixpath
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import fsspec

from esans.errors import ConfigError, DataError
from esans.prepare.config import PrepareConfig, TableConfig

# Up to this many bytes a table's files are read and hashed; above, size and modification time stand for the content.
HASH_LIMIT = 256 * 2**20
_CHUNK = 2**20


def tables(config: PrepareConfig) -> Iterator[tuple[str, str, TableConfig]]:
    """(name in messages, config key, table) of every raw table."""
    yield "items", "prepare.items", config.items
    for name, extra in config.items.extra.items():
        yield f"items.extra.{name}", f"prepare.items.extra.{name}", extra
    yield "interactions", "prepare.interactions", config.interactions


def check_complete(config: PrepareConfig) -> None:
    """Raise ConfigError where a key is missing that only the prepare stage needs."""
    for _, key, table in tables(config):
        if table.path is None and table.table is None:
            raise ConfigError(f"{key}.path: required, and not set (or {key}.table for a catalogue table).")
    columns = config.interactions.columns
    if columns.timestamp is None and columns.position is None:
        raise ConfigError(
            "prepare.interactions.columns.timestamp: required, and not set "
            "(or prepare.interactions.columns.position where there are no times)."
        )
    if columns.timestamp is None and config.split.method in ("global_time", "last_days"):
        raise ConfigError(
            f"prepare.split.method = {config.split.method!r} needs prepare.interactions.columns.timestamp: "
            "positions of users do not compare."
        )


def outside_inputs(config: PrepareConfig) -> dict[str, Any]:
    """Fingerprint of every raw table by its name.

    Raises:
        ConfigError: a required key is missing, or files cannot be listed and no snapshot is named.
        DataError: there is no such file.
    """
    check_complete(config)
    return {name: fingerprint(table, name, key) for name, key, table in tables(config)}


def fingerprint(table: TableConfig, name: str, key: str) -> dict[str, Any]:
    """{snapshot} where one is named; else the sha256 of all files below HASH_LIMIT bytes, or their names, sizes and times."""
    if table.snapshot is not None:
        return {"snapshot": table.snapshot}
    assert table.path is not None  # check_complete and TableConfig saw to it
    try:
        filesystem, root = fsspec.core.url_to_fs(table.path)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"{key}.path = {table.path!r}: its files cannot be fingerprinted here ({error}). "
            f"Install what is missing, or set {key}.snapshot to a word that you change with the data."
        ) from None
    files = _files(filesystem, root)
    if not files:
        raise DataError(f"{name}: no file at {table.path} ({key}.path). Correct the path; relative ones start at the current folder.")
    if sum(info["size"] for _, info in files) < HASH_LIMIT:
        return {"sha256": _content(filesystem, tuple((relative, info["path"], info["size"], _stamp(info)) for relative, info in files))}
    return {"files": [[relative, info["size"], _stamp(info)] for relative, info in files]}


def _stamp(info: dict[str, Any]) -> str:
    return str(info.get("ETag") or info.get("mtime") or info.get("LastModified"))


def _files(filesystem: Any, root: str) -> list[tuple[str, dict[str, Any]]]:
    found: dict[str, dict[str, Any]] = {}
    for top in sorted(filesystem.glob(root)) if glob.has_magic(root) else [root]:
        for path, info in filesystem.find(top, detail=True).items():
            relative = posixpath.relpath(path, top) if path != top else posixpath.basename(path)
            # Spark reads neither _SUCCESS nor .crc files.
            if not any(part.startswith(("_", ".")) for part in relative.split("/")):
                found[path] = {**info, "relative": relative}
    return [(info["relative"], {**info, "path": path}) for path, info in sorted(found.items())]


@lru_cache(maxsize=32)
def _content(filesystem: Any, files: tuple[tuple[str, str, int, str], ...]) -> str:
    # A pipeline plans its stages once per method; the stamp in the key sees to it that changed files are read again.
    total = hashlib.sha256()
    for relative, path, size, _ in files:
        total.update(f"{relative}\0{size}\0".encode())
        with filesystem.open(path, "rb") as stream:
            while chunk := stream.read(_CHUNK):
                total.update(chunk)
    return total.hexdigest()
