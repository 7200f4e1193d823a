"""What a model encoder needs on this machine: its packages, and its files, whose digest says which model it is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from esans.errors import ConfigError

# Up to this many bytes a model's files are read and hashed; above, sizes and modification times stand for the content.
HASH_LIMIT = 256 * 2**20
_CHUNK = 2**20


def require_packages(packages: Iterable[str], encoder: str, modality: str) -> None:
    """Raise ConfigError unless every package (by its import name) is installed; nothing is imported."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"features.{modality}.encoder = {encoder!r} needs the package {', '.join(missing)}, which is not installed here. "
            'Cure: pip install "esans[encoders]"'
        )


def require_path(value: str, key: str) -> Path:
    """A file or folder of this machine. Raises ConfigError naming `key` when there is none."""
    local = value.removeprefix("file://")
    path = Path(local).expanduser()
    if "://" in local:
        raise ConfigError(f"{key} = {value!r}: must be a path that this machine and every executor have. Copy the files there.")
    if not path.exists():
        raise ConfigError(f"{key} = {value!r}: there is no such file or folder on this machine. Correct the path.")
    return path


def fingerprint(path: Path) -> dict[str, Any]:
    """{sha256} of a file or of all files of a folder; {files: names, sizes and times} where they are too large to read each time."""
    files = sorted(file for file in path.rglob("*") if _counts(file, path)) if path.is_dir() else [path]
    stamps = tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    if sum(size for _, size, _ in stamps) < HASH_LIMIT:
        return {"sha256": _sha256(stamps, str(path))}
    return {"files": [[Path(name).name, size, time] for name, size, time in stamps]}


def _counts(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith((".", "__pycache__")) for part in file.relative_to(folder).parts)
    return file.is_file() and not hidden


@lru_cache(maxsize=16)
def _sha256(stamps: tuple[tuple[str, int, int], ...], top: str) -> str:
    # A pipeline plans its stages many times; the stamps see to it that changed files are read again.
    total = hashlib.sha256()
    for name, size, _ in stamps:
        total.update(f"{Path(name).relative_to(top)}\0{size}\0".encode())
        with open(name, "rb") as stream:
            while chunk := stream.read(_CHUNK):
                total.update(chunk)
    return total.hexdigest()
