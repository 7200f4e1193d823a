"""Where a configuration may point: to storage only, and below the roots that the user or the operator of the machine names."""

from __future__ import annotations

import dataclasses
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from typing import Any

import fsspec

from esans.config import is_marked
from esans.errors import BundleError, ConfigError
from esans.redaction import by_place
from esans.uri import canonical, is_local, looks_like_path

# Roots that hold beside those of any configuration, separated by commas: for the operator of a machine where others' configurations run.
VARIABLE = "ESANS_ALLOWED_ROOTS"
# Stores of files. What is not here (http, github, zip, chains with '::') must be named by a root.
_STORAGE = {
    *("file", "local", "memory", "s3", "s3a", "s3n", "gs", "gcs", "hdfs", "viewfs", "webhdfs", "swebhdfs", "abfs", "abfss", "az"),
    *("adl", "wasb", "wasbs", "oci", "oss", "cosn", "obs", "dbfs", "maprfs", "alluxio", "jfs", "ofs", "o3fs", "sftp", "swift"),
}
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


class Place:
    """Marks a configuration field whose value says where something is read or written."""


class PlaceOrName(Place):
    """Marks a field that takes a path or the name of something: of a model on a hub, of a table in a catalogue."""


def check_places(settings: Any, work_dir: str, allowed: Sequence[str]) -> None:
    """Refuse a configuration that points elsewhere than it may.

    Args:
        settings: the whole configuration; its fields marked `Place` are looked at.
        work_dir: always allowed, but for the operator's roots.
        allowed: the configuration's own roots; none allows every store of files.

    Raises:
        ConfigError: one line a key: a URI holds a password, is no store of files, or lies outside the roots.
    """
    operator = _of_operator()
    problems = []
    for key, value in places(settings):
        own = [] if not allowed else [*allowed, work_dir]
        problem = refusal(value, own, operator)
        if problem is not None:
            problems.append(f"{key} = {by_place(value)!r}: {problem}")
    if problems:
        raise ConfigError("\n".join(problems))


def check_bundle(uri: str) -> None:
    """Refuse a bundle that this process may not read, whoever names it: a configuration, another bundle's manifest, a tag in MLflow.

    Raises:
        BundleError: it is in no store of files, or outside the operator's roots.
    """
    problem = refusal(uri, [], _of_operator())
    if problem is not None:
        raise BundleError(f"the bundle {by_place(uri)} {problem}")


def _of_operator() -> list[str]:
    return [root.strip() for root in os.environ.get(VARIABLE, "").split(",") if root.strip()]


def refusal(uri: str, allowed: Sequence[str], operator: Sequence[str] = ()) -> str | None:
    """Why a URI is not read, or None; each list of roots that is not empty must hold one that it lies below."""
    if by_place(uri) != uri:
        return "holds a password or a token. Take it out: credentials come from the environment (docs/security.md)."
    scheme = _SCHEME.match(uri)
    if "::" in uri or (
        scheme and scheme[1].lower() not in _STORAGE and not any(root.startswith(scheme[0]) for root in [*allowed, *operator])
    ):
        return "is no store of files that this project reads. Copy the data to one, or name its place in allowed_roots."
    if ".." in uri.split("/") and scheme and scheme[1].lower() not in ("file", "local"):
        return "climbs with '..'. Name the place itself."
    for roots, name in ((allowed, "allowed_roots"), (operator, VARIABLE)):
        if roots and not any(_lies_below(uri, root) for root in roots):
            return f"lies outside {name} ({', '.join(map(by_place, roots))}). Move it, or have its root added there."
    return None


def places(config: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(key, value) of every field marked `Place` that is set, depth first."""
    for field in dataclasses.fields(config):
        value, key = getattr(config, field.name), f"{prefix}{field.name}"
        if isinstance(value, str):
            if _is_place(type(config), field.name, value):
                yield key, value
        elif dataclasses.is_dataclass(value):
            yield from places(value, f"{key}.")
        elif isinstance(value, dict):
            for name, item in value.items():
                if dataclasses.is_dataclass(item):
                    yield from places(item, f"{key}.{name}.")
                elif name in ("path", "paths") and isinstance(item, str) and field.name == "options":
                    # Spark's readers take a path among their options too.
                    yield f"{key}.{name}", item


def _is_place(config: type, name: str, value: str) -> bool:
    if is_marked(config, name, PlaceOrName):
        return looks_like_path(value)
    # A name in the registry is no place; the bundle behind it is looked at when it is opened.
    return is_marked(config, name, Place) and not value.startswith("models:/")


def _lies_below(uri: str, root: str) -> bool:
    mine, base = _absolute(uri), _absolute(root)
    return mine == base or mine.startswith(base.rstrip("/") + "/")


def _absolute(uri: str) -> str:
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError):
        # Only Spark knows this store; its names have no links.
        return posixpath.normpath(uri)
    if is_local(filesystem):
        # A link inside a root must not lead out of it; the part before a glob is what can be looked at.
        return "file://" + os.path.realpath(path)
    return canonical(uri)
