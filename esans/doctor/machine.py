"""What the machine itself has: Python, packages, Java, memory, disk."""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import fsspec
import psutil

from esans.doctor.line import Line, fail, ok, warn
from esans.environment import JAVA_VERSIONS, check_python, find_java, java_homes, java_version, pin_problems, require_java
from esans.errors import EnvironmentProblem
from esans.uri import canonical, is_local

GB = 10**9
# Enough for the bundled data; `esans plan` says what other data take.
NEED_GB = 5.0
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
# Package that can be imported -> what it is for.
_OPTIONAL = {
    "sentence_transformers": "text models",
    "open_clip": "image models",
    "timm": "image models",
    "PIL": "pictures",
    "implicit": "ALS and BPR among the references",
    "torchrec": "tables spread over devices",
    "s3fs": "s3:// URIs",
    "gcsfs": "gs:// URIs",
}


def python() -> Line:
    """The interpreter."""
    found = ".".join(map(str, sys.version_info[:3]))
    try:
        check_python()
    except EnvironmentProblem as problem:
        return _failed("Python", found, problem)
    return ok("Python", f"{found} ({sys.executable})")


def pins() -> Line:
    """Exact versions of the packages that only work together."""
    try:
        installed = version("esans")
    except PackageNotFoundError:
        return warn("packages", "esans has no metadata here: no versions to compare", "Install it: make setup, or pip install the wheel.")
    problems = pin_problems()
    if problems:
        cures = [problem.partition("Cure: ")[2] for problem in problems]
        return fail("packages", "; ".join(problem.partition(" Cure: ")[0] for problem in problems), "; ".join(dict.fromkeys(cures)))
    return ok("packages", f"esans {installed}, all pinned versions as they should be")


def java() -> Line:
    """The Java that Spark runs on."""
    home, named = find_java(), os.environ.get("JAVA_HOME")
    if home is None:
        try:
            require_java()
        except EnvironmentProblem as problem:
            state = f"JAVA_HOME={named} holds none that fits" if named else "none that fits"
            return _failed("Java", state, problem)
    assert home is not None
    found = f"{java_version(home)} ({home})"
    if named and Path(named).resolve() != home.resolve():
        seen = [place for place in java_homes() if place.resolve() == Path(named).resolve()]
        what = f"holds Java {java_version(seen[0])}" if seen else "holds no Java"
        return warn("Java", f"{found}; JAVA_HOME={named} {what}", f"Set JAVA_HOME={home}, or unset it; {_either()} fits.")
    return ok("Java", found)


def _either() -> str:
    return " or ".join(map(str, JAVA_VERSIONS))


def memory(driver_memory: str) -> Line:
    """Memory against the heap that Spark's driver asks for."""
    total, free = _memory()
    heap = _bytes(driver_memory)
    found = f"{total / GB:.1f} GB, {free / GB:.1f} GB free; Spark's driver takes {driver_memory}"
    if heap >= total:
        return fail("memory", found, f"Set spark.driver_memory below {total / GB:.0f} GB.")
    if heap > free:
        return warn("memory", found, "End what else runs here, or lower spark.driver_memory.")
    return ok("memory", found)


def _memory() -> tuple[int, int]:
    """(total, free) bytes; in a container those of its limit."""
    seen = psutil.virtual_memory()
    try:
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
    except (OSError, ValueError):
        return seen.total, seen.available
    return min(seen.total, limit), min(seen.available, max(limit - used, 0))


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)([kmgt]?)b?", text.strip().lower())
    return int(match[1]) * _UNITS[match[2]] if match else 0


def work_dir(uri: str, need_gb: float) -> Iterator[Line]:
    """Whether the work directory can be written, by whom, and how much fits.

    Args:
        uri: of the configuration; a folder that is not there yet counts as the nearest one above it.
        need_gb: less free space than this fails, less than four times as much warns.
    """
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        yield fail("work_dir", f"{uri}: {error}", "Install what that store needs (s3fs for s3://, gcsfs for gs://), or take another.")
        return
    if not is_local(filesystem):
        yield _remote(filesystem, path, canonical(uri))
        return
    place = next(parent for parent in [Path(path), *Path(path).parents] if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        yield fail("work_dir", f"{place} cannot be written: {error.strerror}", "Change its owner or rights, or take another work_dir.")
        return
    mode = stat.S_IMODE(place.stat().st_mode)
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        yield warn(
            "work_dir",
            f"{place} may be written by everybody ({mode:o})",
            f"chmod o-w {place}: others could write what is trained on.",
        )
    else:
        yield ok("work_dir", f"{place} can be written ({mode:o})")
    free = shutil.disk_usage(place).free / GB
    found = f"{free:,.1f} GB free at {place}"
    if free < need_gb:
        yield fail("disk", f"{found}, {need_gb:g} GB wanted", "Make room, or take a larger disk; `esans plan` says what data take.")
    elif free < 4 * need_gb:
        yield warn("disk", found, f"Little for more than {free / 4:.0f} GB of bundles: see `esans plan`.")
    else:
        yield ok("disk", found)


def _remote(filesystem: fsspec.AbstractFileSystem, path: str, uri: str) -> Line:
    try:
        filesystem.ls(path.split("/", maxsplit=1)[0] or path)
    except FileNotFoundError:
        return fail("work_dir", f"{uri}: there is no such bucket", "Create it, or correct work_dir.")
    except Exception as error:
        return fail("work_dir", f"{uri}: {error}", "Check the network and the credentials in the environment (docs/security.md).")
    return ok("work_dir", f"{uri} answers")


def extras() -> Line:
    """Optional packages, for information."""
    there = [name for name in _OPTIONAL if find_spec(name) is not None]
    missing = [f"{name} ({_OPTIONAL[name]})" for name in _OPTIONAL if name not in there]
    return ok("optional", f"installed: {', '.join(there) or 'none'}; not installed: {', '.join(missing) or 'none'}")


def _failed(name: str, found: str, problem: EnvironmentProblem) -> Line:
    text, _, cure = str(problem).partition(" Cure: ")
    return fail(name, f"{found}: {text}", cure[:1].upper() + cure[1:])
