"""The files that a cluster needs: the wheel, the same as a zip, and a packed Python environment with its interpreter.

The environment holds what the wheel's own requirements name, with all that those require, and nothing else of the .venv it comes
from (no linters, no test servers). It runs wherever it is unpacked: the interpreter lies in it with its standard library, and finds
both beside itself. What it needs of a node is Linux of the same processor with a C library that is not older.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from fnmatch import fnmatch
from pathlib import Path

from packaging.requirements import Requirement

from esans.errors import EsansError

# Spark's own jars: the cluster has them, and they are a quarter of the whole.
SPARK_JARS = "pyspark/jars/*"
_SKIPPED = ("*/__pycache__/*", "*.pyc")
_STANDARD_SKIPPED = (
    "site-packages/*",
    "dist-packages/*",
    "test/*",
    "*/test/*",
    "*/tests/*",
    "idlelib/*",
    "ensurepip/*",
    "turtledemo/*",
    "config-*",
)
# Level 3 packs twice as fast as the default and a few per cent larger.
_GZIP_LEVEL = 3
_STAMP = 1_600_000_000

# A shared interpreter looks for its library where it was built; told so here, it and all processes that it starts find their own.
_LAUNCHER = """#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
LD_LIBRARY_PATH=$here/../lib${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}} exec "$here/{python}" "$@"
"""


class PackingError(EsansError):
    """The wheel could not be built, or a package that the environment must hold is not installed here."""


@dataclass(frozen=True)
class Base:
    """An interpreter outside any virtual environment, and where its things lie."""

    prefix: Path
    executable: Path
    standard: Path
    site: str
    """Where it looks for packages, relative to its prefix."""
    library: Path | None
    """Its shared library, where it is not a part of the executable."""


def build_wheel(source: Path, folder: Path) -> Path:
    """The project's wheel in `folder`, built from a clone with what is installed here.

    Raises:
        PackingError: pip failed; the message has the end of its output.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("esans-*.whl"):
        old.unlink()
    # A folder of old build results would put removed files into the wheel; a copy has none.
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        for file in _sources(source):
            target = copy / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
        command = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            str(folder),
            str(copy),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("esans-*.whl"))
    if done.returncode or not wheels:
        raise PackingError(f"no wheel could be built from {source}:\n{(done.stdout + done.stderr)[-2000:]}")
    return wheels[0]


def _sources(source: Path) -> Iterator[Path]:
    yield from (source / name for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"))
    yield from (path for path in (source / "esans").rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def requirements_of(wheel: Path, extras: Iterable[str]) -> list[Requirement]:
    """What the wheel requires on this machine, with the extras named.

    Raises:
        PackingError: the wheel has no such extra.
    """
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(name).decode())
    known = metadata.get_all("Provides-Extra") or []
    unknown = sorted(set(extras) - set(known))
    if unknown:
        raise PackingError(f"extras = {', '.join(unknown)}: the project has no such extra. Known: {', '.join(sorted(known))}.")
    wanted = [Requirement(text) for text in metadata.get_all("Requires-Dist") or []]
    return [requirement for requirement in wanted if _applies(requirement, extras)]


def _applies(requirement: Requirement, extras: Iterable[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def closure(requirements: Sequence[Requirement]) -> list[importlib.metadata.Distribution]:
    """The installed packages that requirements name, and what those require in turn, in name order.

    Raises:
        PackingError: some are not installed; the message has the command that installs them.
    """
    found: dict[str, importlib.metadata.Distribution] = {}
    missing: set[str] = set()
    waiting, seen = list(requirements), set()
    while waiting:
        requirement = waiting.pop()
        key = (_plain(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            distribution = importlib.metadata.distribution(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            missing.add(f"{requirement.name}{requirement.specifier}")
            continue
        found[key[0]] = distribution
        waiting += [needed for text in distribution.requires or [] if _applies(needed := Requirement(text), requirement.extras)]
    if missing:
        names = " ".join(f"'{name}'" for name in sorted(missing))
        raise PackingError(
            f"{len(missing)} packages are not installed here: {', '.join(sorted(missing))}. Cure: {sys.executable} -m pip install {names}"
        )
    return [found[name] for name in sorted(found)]


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pack(
    wheel: Path, distributions: Sequence[importlib.metadata.Distribution], output: Path, *, skip: Sequence[str] = (SPARK_JARS,)
) -> int:
    """Write interpreter, packages and the wheel's content as a .tar.gz without a top folder, as `--archives` wants it.

    Args:
        wheel: the project's own.
        distributions: packages to put in, as `closure` gives them.
        output: the archive.
        skip: patterns of files below the packages' folder that stay out.

    Returns:
        Bytes of all files before packing.
    """
    base = _base()
    part = output.with_name(f"{output.name}.part")
    with part.open("wb") as stream, tarfile.open(fileobj=stream, mode="w:gz", compresslevel=_GZIP_LEVEL) as archive:
        size = _add_interpreter(archive, base)
        for distribution in distributions:
            size += _add_distribution(archive, distribution, base, skip)
        size += _add_wheel(archive, wheel, base)
    part.replace(output)
    return size


def _base() -> Base:
    """The interpreter that this environment was made from."""
    executable = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    code = "import json, site, sys, sysconfig; print(json.dumps([sys.prefix, sysconfig.get_path('stdlib'), site.getsitepackages()[0]]))"
    told = subprocess.run([str(executable), "-I", "-c", code], capture_output=True, text=True, check=True)
    prefix, standard, site = json.loads(told.stdout)
    library = None
    if sysconfig.get_config_var("Py_ENABLE_SHARED"):
        library = Path(str(sysconfig.get_config_var("LIBDIR"))) / str(sysconfig.get_config_var("INSTSONAME"))
    return Base(Path(prefix), executable, Path(standard), str(Path(site).relative_to(prefix)), library)


def _add_interpreter(archive: tarfile.TarFile, base: Base) -> int:
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    size = _add_file(archive, base.executable, f"bin/{name}")
    if base.library is None:
        size += sum(_add_text(archive, f"bin/{link}", "", link=name) for link in ("python", "python3"))
    else:
        size += _add_file(archive, base.library, f"lib/{base.library.name}")
        size += sum(_add_text(archive, f"bin/{link}", _LAUNCHER.format(python=name)) for link in ("python", "python3"))
    for file in sorted(base.standard.rglob("*")):
        relative = str(file.relative_to(base.standard))
        if file.is_file() and not _matches(relative, (*_SKIPPED, *_STANDARD_SKIPPED)):
            size += _add_file(archive, file, f"lib/{name}/{relative}")
    return size


def _add_distribution(archive: tarfile.TarFile, distribution: importlib.metadata.Distribution, base: Base, skip: Sequence[str]) -> int:
    size = 0
    for entry in distribution.files or []:
        file, relative = Path(str(entry.locate())), str(entry)
        if _matches(relative, (*_SKIPPED, *skip)) or not file.is_file():
            continue
        if not relative.startswith(".."):
            size += _add_file(archive, file, f"{base.site}/{relative}")
        elif file.parent.name == "bin":
            size += _add_text(archive, f"bin/{file.name}", "", content=_any_python(file.read_bytes()))
        else:
            size += _add_file(archive, file, str(file.resolve().relative_to(Path(sys.prefix).resolve())))
    return size


def _add_wheel(archive: tarfile.TarFile, wheel: Path, base: Base) -> int:
    size = 0
    with zipfile.ZipFile(wheel) as source:
        for name in source.namelist():
            if not name.endswith("/"):
                size += _add_text(archive, f"{base.site}/{name}", "", content=source.read(name), mode=0o644)
    script = "#!/usr/bin/env python3\nimport sys\nfrom esans.cli import main\nsys.exit(main())\n"
    return size + _add_text(archive, "bin/esans", script)


def _any_python(script: bytes) -> bytes:
    """A console script that starts with this environment's interpreter, made to start with the first on the PATH."""
    first, newline, rest = script.partition(b"\n")
    return b"#!/usr/bin/env python3" + newline + rest if first.startswith(b"#!") and b"python" in first else script


def _matches(relative: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(relative, pattern) or fnmatch(f"/{relative}", pattern) for pattern in patterns)


def _add_file(archive: tarfile.TarFile, file: Path, name: str) -> int:
    # What it links to: the archive stands alone.
    with file.open("rb") as stream:
        entry = archive.gettarinfo(arcname=name, fileobj=stream)
        _anonymous(entry)
        archive.addfile(entry, stream)
    return entry.size


def _add_text(archive: tarfile.TarFile, name: str, text: str, *, content: bytes | None = None, link: str = "", mode: int = 0o755) -> int:
    entry, data = tarfile.TarInfo(name), text.encode() if content is None else content
    entry.mode, entry.mtime = mode, _STAMP
    if link:
        entry.type, entry.linkname, data = tarfile.SYMTYPE, link, b""
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))
    return entry.size


def _anonymous(entry: tarfile.TarInfo) -> None:
    """No user of this machine in the archive, and nothing that only its owner may read: tasks may run as someone else."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mode |= 0o444
