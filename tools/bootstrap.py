"""Make .venv, install the project into it, and find a Java: everything that `make quickstart` and `make test` stand on.

Run by tools/setup.sh with a Python 3.11 or 3.12; standard library only. When nothing has changed it ends at once.
"""

from __future__ import annotations

import argparse
import configparser
import hashlib
import importlib.metadata
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "esans-setup.sha256"
LOG = VENV / "esans-setup.log"

sys.path.insert(0, str(ROOT))

from esans.environment import exact_pins  # noqa: E402
from tools.browser import ensure_browser  # noqa: E402
from tools.java import ensure_java  # noqa: E402

_STARTED = time.monotonic()
_SILENCE = 15  # seconds without a line before a sign of life is printed
# What a person needs to see of pip's output; the whole of it lies in LOG.
_SHOWN = re.compile(r"Collecting |Downloading .*[MG]B\)|Building |Installing |Successfully |ERROR|error")


def main() -> int:
    """Bring the clone's environment up to date; 0 when everything needed is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--extras", default="cpu", help="extras of setup.cfg to install: cpu or gpu, dev, encoders")
    parser.add_argument("--no-java", action="store_true", help="leave Java out (lint needs none)")
    options = parser.parse_args()
    if not _installed(options.extras) and not _install(options.extras):
        return 1
    if "docs" in _split(options.extras):
        # Everything else works without one, so that its lack is said and no error.
        ensure_browser(PYTHON, say)
    if options.no_java:
        return 0
    return 0 if ensure_java(PYTHON, say) else 1


def say(message: str) -> None:
    """One line of progress with the seconds since the start."""
    print(f"[{time.monotonic() - _STARTED:6.1f} s] {message}", flush=True)


def _stamp(extras: str) -> str:
    """What an installation was made from, and below it the extras, a line each."""
    parts = [(ROOT / name).read_bytes() for name in ("setup.cfg", "pyproject.toml")]
    parts += [_venv_version().encode(), str(ROOT).encode()]
    return "\n".join([hashlib.sha256(b"\0".join(parts)).hexdigest(), *sorted(_split(extras))])


def _split(extras: str) -> set[str]:
    return {extra.strip() for extra in extras.split(",")}


def _venv_version() -> str:
    """Minor version of the .venv's Python, '' when there is none or it does not run."""
    if Path(sys.prefix).resolve() == VENV.resolve():
        return f"{sys.version_info[0]}.{sys.version_info[1]}"
    command = [PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def _installed(extras: str) -> bool:
    """Whether the stamp is current and no pinned package was changed by hand since."""
    if not STAMP.is_file():
        return False
    made_from, *present = STAMP.read_text().split("\n")
    # More than what is asked for does no harm: `make quickstart` after `make test` installs nothing.
    if made_from != _stamp(extras).partition("\n")[0] or not _split(extras) <= set(present):
        return False
    wrong = _wrong_pin(extras)
    if wrong:
        # The first line of the output: what is wrong, and what is done about it.
        print(f"{wrong}: installing the pinned version again", flush=True)
    return not wrong


def _wrong_pin(extras: str) -> str:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"].splitlines()
    for extra in extras.split(","):
        lines += config["options.extras_require"].get(extra.strip(), "").splitlines()
    site = [str(path) for path in (VENV / "lib").glob("python3.*/site-packages")]
    for package, wanted, _ in exact_pins(lines):
        found = next((found.version for found in importlib.metadata.distributions(name=package, path=site)), None)
        if found is None or found.partition("+")[0] != wanted:
            return f"{package} {found or 'nothing'} is installed in .venv, and {wanted} is needed"
    return ""


def _install(extras: str) -> bool:
    STAMP.unlink(missing_ok=True)
    wanted = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if _venv_version() not in ("3.11", "3.12") or (os.environ.get("PYTHON") and _venv_version() != wanted):
        say(f"making .venv with Python {sys.version.split()[0]} ({sys.executable})")
        shutil.rmtree(VENV, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    say(f"installing the project with its pinned packages: pip install -e .[{extras}]")
    # Byte code is written when a module is first imported; compiling thousands of modules that nobody imports takes longer.
    command = [str(PYTHON), "-m", "pip", "install", "--no-compile", "--disable-pip-version-check", "-e", f"{ROOT}[{extras}]"]
    if not _stream_pip(command):
        print(f"error: pip failed; the whole output is in {LOG}. Its end:", file=sys.stderr)
        print("".join(LOG.read_text().splitlines(keepends=True)[-25:]), file=sys.stderr)
        return False
    STAMP.write_text(_stamp(extras))
    say("installed")
    return True


def _stream_pip(command: list[str]) -> bool:
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT) as pip, LOG.open("w") as log:
        lines: queue.Queue[str] = queue.Queue()
        reader = threading.Thread(target=_read_into, args=(pip.stdout, lines), daemon=True)
        reader.start()
        while reader.is_alive() or not lines.empty():
            try:
                line = lines.get(timeout=_SILENCE)
            except queue.Empty:
                # Unpacking everything is one long step without a word from pip.
                say("  still at it")
                continue
            log.write(line)
            text = line.strip()
            if _SHOWN.match(text):
                say(f"  {text if len(text) < 110 else text[:107] + '...'}")
    return pip.returncode == 0


def _read_into(stream: Iterable[str], lines: queue.Queue[str]) -> None:
    for line in stream:
        lines.put(line)
    lines.put("")


if __name__ == "__main__":
    sys.exit(main())
