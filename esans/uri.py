"""Places by URI: absolute, with a scheme, the same for Spark, Petastorm and fsspec."""

from __future__ import annotations

import os
import posixpath
import uuid
from collections.abc import Sequence
from pathlib import Path

import fsspec

from esans.errors import BundleError

# Their URIs name a server, which fsspec takes out of its paths.
_WITH_SERVER = ("hdfs://", "webhdfs://", "viewfs://")

# Bundles are written by other processes too; a listing that s3fs remembered would hide their files.
fsspec.config.conf.setdefault("s3", {}).setdefault("use_listings_cache", False)


def canonical(uri: str) -> str:
    """An absolute URI with a scheme, the one that fsspec knows a store by: s3a://, as Spark says, becomes s3://.

    So one place has one name in manifests and fingerprints, whoever writes it; esans/lake.py gives Spark the name that it knows.
    """
    if uri.startswith(_WITH_SERVER):
        return uri.rstrip("/")
    filesystem, path = fsspec.core.url_to_fs(uri)
    return str(filesystem.unstrip_protocol(path)).rstrip("/")


def looks_like_path(value: str) -> bool:
    """Whether a name can only be a path, and not the name of a model on a hub (`name` or `owner/name`)."""
    return value.startswith((".", "/", "~", "file:")) or value.count("/") > 1 or "\\" in value or Path(value).exists()


def join(uri: str, *parts: str) -> str:
    """Append path parts to a URI."""
    return posixpath.join(uri.rstrip("/"), *parts)


def below(root: str, name: str, what: str = "file") -> str:
    """`root`/`name` for a name that a manifest gives, which must stay below the root.

    Raises:
        BundleError: the name is absolute, has a scheme, climbs (`..`), or leads out through a symbolic link.
    """
    all_below(root, [name], what=what)
    return join(root, name)


def all_below(root: str, names: Sequence[str], within: str | None = None, what: str = "file") -> None:
    """`below` for many names; links may lead anywhere inside `within` (the root by default). Raises BundleError as it does."""
    for name in names:
        if not isinstance(name, str) or not _stays(name):
            raise BundleError(
                f"a manifest below {root} names the {what} {name!r}, which leads out of its folder. "
                "This project writes no such name: remove that bundle, and run its stage again."
            )
    filesystem, path = fsspec.core.url_to_fs(root)
    if not is_local(filesystem):
        return
    home = os.path.realpath(path if within is None else fsspec.core.url_to_fs(within)[1])
    folders = {posixpath.dirname(name) for name in names}
    # One look at a folder stands for its files, but for those that are links themselves.
    places = [posixpath.join(path, name) for name in [*sorted(folders), *(name for name in names if os.path.islink(f"{path}/{name}"))]]
    for place in places:
        if os.path.commonpath([home, os.path.realpath(place)]) != home:
            raise BundleError(
                f"{place} is a symbolic link that leads out of {home}, to {os.path.realpath(place)}. Replace it by what it points at, "
                "or remove that bundle and run its stage again."
            )


def _stays(name: str) -> bool:
    parts = name.split("/")
    return bool(name) and "://" not in name and "\\" not in name and "\0" not in name and not ({"", ".", ".."} & set(parts))


def is_local(filesystem: fsspec.AbstractFileSystem) -> bool:
    """Whether paths of this filesystem are paths of this machine."""
    protocols = filesystem.protocol if isinstance(filesystem.protocol, tuple) else (filesystem.protocol,)
    return "file" in protocols


def write_text(uri: str, text: str) -> None:
    """Write a small file so that a reader sees the old content or the new, never a part of it."""
    filesystem, path = fsspec.core.url_to_fs(uri)
    filesystem.makedirs(posixpath.dirname(path), exist_ok=True)
    if is_local(filesystem):
        part = f"{path}.{uuid.uuid4().hex}.part"
        Path(part).write_text(text, encoding="utf-8")
        Path(part).replace(path)
    else:
        filesystem.pipe_file(path, text.encode())
