"""Places by URI: absolute, with a scheme, the same for Spark, Petastorm and fsspec."""

from __future__ import annotations

import posixpath
import uuid
from pathlib import Path

import fsspec

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


def join(uri: str, *parts: str) -> str:
    """Append path parts to a URI."""
    return posixpath.join(uri.rstrip("/"), *parts)


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
