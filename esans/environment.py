"""What the machine must have: a Python, exact package versions and a Java that work together. Standard library only."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from esans.errors import EnvironmentProblem

PYTHON_VERSIONS = ((3, 11), (3, 12))
JAVA_VERSIONS = (17, 21)
# The clone, or site-packages: where tools/java.py puts a JDK of the project's own.
ROOT = Path(__file__).resolve().parents[1]

_PIN = re.compile(r"^([A-Za-z0-9._-]+)\s*==\s*([^\s;]+)\s*(;.*)?$")
_WHY = {
    "pyarrow": "Petastorm 0.12.1 does not import beside any other",
    "numpy": "Petastorm uses names that numpy 2 removed",
    "petastorm": "0.13 cannot be installed beside torch 2.13",
    "pyspark": "4.1 wants a pyarrow that Petastorm cannot use",
}
# Package managers in the order they are looked for, with the command that installs a Java.
_JAVA_COMMANDS = {
    "apt-get": "apt-get install -y openjdk-{version}-jre-headless",
    "dnf": "dnf install -y java-{version}-openjdk-headless",
    "apk": "apk add openjdk{version}-jre-headless",
    "brew": "brew install openjdk@{version}",
}


def check_python(version: tuple[int, ...] | None = None) -> None:
    """Raise EnvironmentProblem unless this is Python 3.11 or 3.12."""
    found = tuple(version or sys.version_info[:3])
    if found[:2] not in PYTHON_VERSIONS:
        raise EnvironmentProblem(
            f"Python {'.'.join(map(str, found))} does not fit: 3.11 or 3.12 is needed (pyarrow 14.0.2 has no wheels for newer ones). "
            "Cure: remove .venv and run `make quickstart PYTHON=/path/to/python3.11`."
        )


def exact_pins(requirements: Iterable[str]) -> Iterator[tuple[str, str, bool]]:
    """(package, wanted version, whether it belongs to an extra) of every `==` requirement."""
    for requirement in requirements:
        match = _PIN.match(requirement)
        if match:
            yield match[1], match[2], "extra" in (match[3] or "")


def check_pins() -> None:
    """Compare installed versions with the exact pins of the package's own metadata.

    An extra's pin counts only where that package is installed. Without metadata (sources alone on the path) there is
    nothing to compare with, and nothing is checked.

    Raises:
        EnvironmentProblem: a package is missing or has another version, or both faiss builds are installed.
    """
    problems = pin_problems()
    if problems:
        raise EnvironmentProblem(problems[0])


def pin_problems() -> list[str]:
    """All that `check_pins` would refuse, a message each with its cure."""
    try:
        requirements = importlib.metadata.requires("esans") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    problems = []
    for package, wanted, optional in exact_pins(requirements):
        found = _installed(package)
        if found is None and optional:
            continue
        # A local suffix (2.13.0+cpu) is another build of the same version.
        if found is None or found.partition("+")[0] != wanted:
            problems.append(_pin_message(package, found, wanted))
    if _installed("faiss-cpu") and _installed("faiss-gpu"):
        problems.append(
            "faiss-cpu and faiss-gpu are both installed and overwrite each other's files. "
            "Cure: pip uninstall -y faiss-cpu faiss-gpu, then pip install the one of your extra (cpu or gpu)."
        )
    return problems


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _pin_message(package: str, found: str | None, wanted: str) -> str:
    why = f" ({_WHY[package]})" if package in _WHY else ""
    state = f"{package} {found} is installed" if found else f"{package} is not installed"
    return f"{state}, and {wanted} is needed{why}. Cure: {sys.executable} -m pip install {package}=={wanted}"


def require_java() -> Path:
    """Find Java 17 or 21 and point JAVA_HOME at it.

    Returns:
        The Java home in use.

    Raises:
        EnvironmentProblem: there is none; the message says what was found instead and how to get one.
    """
    home = find_java()
    if home is None:
        others = [f"Java {version} ({place})" for place in java_homes() if (version := java_version(place))]
        found = f" Found only {', '.join(dict.fromkeys(others))}." if others else ""
        raise EnvironmentProblem(f"Spark needs Java 17 or 21, and there is none here.{found} Cure: {java_command()}, or set JAVA_HOME.")
    os.environ["JAVA_HOME"] = str(home)
    return home


def find_java() -> Path | None:
    """The first Java home of a version that works: JAVA_HOME, `java` on the PATH, .jdk in the clone, the system's folders."""
    return next((home for home in java_homes() if java_version(home) in JAVA_VERSIONS), None)


def java_homes() -> Iterator[Path]:
    """Every folder that may be a Java home, best first; each holds bin/java."""
    places = [Path(os.environ["JAVA_HOME"])] if os.environ.get("JAVA_HOME") else []
    on_path = shutil.which("java")
    if on_path:
        places.append(Path(on_path).resolve().parents[1])
    places += sorted((ROOT / ".jdk").glob("*")) + sorted((ROOT / ".jdk").glob("*/Contents/Home"))
    places += [place for folder in _system_folders() for place in sorted(folder.glob("*"))]
    seen: set[Path] = set()
    for place in places:
        if (place / "bin" / "java").exists() and place.resolve() not in seen:
            seen.add(place.resolve())
            yield place


def _system_folders() -> list[Path]:
    # A package manager installs Java here without always putting it on the PATH (Homebrew never does).
    return [Path("/usr/lib/jvm"), Path("/opt/homebrew/opt"), Path("/usr/local/opt")]


def java_version(home: Path) -> int | None:
    """Major version of a Java home, from its release file, or by running it where that is missing."""
    release = home / "release"
    text = release.read_text(errors="replace") if release.is_file() else _version_by_running(home / "bin" / "java")
    match = re.search(r'(?:JAVA_VERSION=|version )"(?:1\.)?(\d+)', text)
    return int(match[1]) if match else None


def _version_by_running(java: Path) -> str:
    try:
        return subprocess.run([java, "-version"], capture_output=True, text=True, timeout=20, check=False).stderr
    except (OSError, subprocess.TimeoutExpired):
        return ""


def java_command(version: int = 17) -> str:
    """The one command that installs Java on the system at hand."""
    for manager, command in _JAVA_COMMANDS.items():
        if shutil.which(manager):
            prefix = "sudo " if manager != "brew" and os.geteuid() != 0 else ""
            return prefix + command.format(version=version)
    return f"install a JDK {version} for {platform.system()} {platform.machine()} from your system's packages"
