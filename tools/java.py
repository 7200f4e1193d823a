"""Get a Java for Spark where there is none: into the clone if that works, else by the system's package manager when root."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from esans.environment import JAVA_VERSIONS, ROOT, find_java, java_command, java_version

_JDK_TIMEOUT = 600  # seconds; about 200 MB
_INSTALL_JDK = "import jdk, sys; print(jdk.install('17', path=sys.argv[1]))"


def ensure_java(python: Path, say: Callable[[str], None]) -> bool:
    """Find or get Java 17 or 21. Returns False, having said what to do, where no way worked."""
    if find_java() is not None:
        return True
    say("Spark needs Java 17 or 21 and there is none here: getting a JDK into .jdk")
    home = _into_clone(python, say) or _by_package_manager(say)
    if home is None:
        print(f"error: Spark needs Java 17 or 21 and none could be installed. Cure: {java_command()}", file=sys.stderr)
        return False
    say(f"Java {java_version(home)}: {home}")
    return True


def _into_clone(python: Path, say: Callable[[str], None]) -> Path | None:
    target = ROOT / ".jdk"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "install-jdk"]
    if _run(pip, say) and _run([str(python), "-c", _INSTALL_JDK, str(target)], say):
        return find_java()
    # A half-unpacked JDK must not be taken for one next time.
    shutil.rmtree(target, ignore_errors=True)
    return None


def _by_package_manager(say: Callable[[str], None]) -> Path | None:
    if os.geteuid() != 0 or java_command().startswith("install "):
        return None
    if shutil.which("apt-get"):
        _run(["apt-get", "update", "-q"], say)
    for version in JAVA_VERSIONS:
        if _run(shlex.split(java_command(version)), say) and (home := find_java()):
            return home
    return None


def _run(command: list[str], say: Callable[[str], None]) -> bool:
    shown = " ".join(command[:2] if "-c" in command else command)
    say(f"  $ {shown}")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_JDK_TIMEOUT, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        say(f"    did not work: {error}")
        return False
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no output"]
        say(f"    did not work: {last[0]}")
    return done.returncode == 0
