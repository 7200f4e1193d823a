"""Get a headless Chromium for the checks of pages: into the clone where that works without root, else by apt when root."""

from __future__ import annotations

import base64
import hashlib
import os
import platform
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from ctypes.util import find_library
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".browser"
# A headless shell in one file, made for machines without a browser's libraries. Its digest is the registry's own.
PACKAGE = "@sparticuz/chromium@153.0.0"
SHA512 = "jiGWqSvPMdu4+P9TilYqAR7yEGPEHINx+lCvE/NqNO/EHYzF/x1hUiI5T6ioVIt7dEy7n88byyT0vk+dnsgQwA=="
_NAMES = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome", "google-chrome-stable", "chrome-headless-shell")
_TIMEOUT = 600  # seconds
_INFLATE = """
const {pipeline} = require("stream"), fs = require("fs"), [from, to] = process.argv.slice(1);
pipeline(fs.createReadStream(from), require("zlib").createBrotliDecompress(), fs.createWriteStream(to), e => { if (e) throw e; });
"""


def find_browser() -> Path | None:
    """A Chromium: the one that ESANS_BROWSER names, the clone's own, or one of the PATH. None where there is none."""
    named = os.environ.get("ESANS_BROWSER")
    own = [FOLDER / "chromium", *sorted(FOLDER.glob("chromium*/*/*headless*shell")), *sorted(FOLDER.glob("chromium*/*/chrome"))]
    found = [Path(named)] if named else [path for path in own if path.is_file()]
    found += [Path(path) for path in map(shutil.which, _NAMES) if path]
    return found[0] if found else None


def environment(base: Mapping[str, str]) -> dict[str, str]:
    """Variables to start the browser with: the clone's own brings libraries that bare machines lack."""
    own = FOLDER / "lib"
    missing = own.is_dir() and not (find_library("nss3") and find_library("nspr4"))
    return {**base, "LD_LIBRARY_PATH": str(own)} if missing else dict(base)


def ensure_browser(python: Path, say: Callable[[str], None]) -> bool:
    """Find or get a Chromium. Returns False, having said what that means, where no way worked: nothing but page checks needs it."""
    if find_browser() is not None:
        return True
    say("the checks of pages want a headless Chromium and there is none here: getting one into .browser")
    if not (_by_npm(say) or _by_playwright(python, say) or _by_apt(say)):
        say("no Chromium: the tests that look at pages will be skipped. Install one, or name it in ESANS_BROWSER")
        return False
    say(f"Chromium: {find_browser()}")
    return True


def _by_npm(say: Callable[[str], None]) -> bool:
    if not (shutil.which("npm") and shutil.which("node")) or (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return False
    part = FOLDER / "part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        if not _run(["npm", "pack", "--silent", "--pack-destination", str(part), PACKAGE], say):
            return False
        (packed,) = part.glob("*.tgz")
        if not verified(packed):
            say(f"    {PACKAGE} is not the package that was pinned: its SHA-512 differs; not used")
            return False
        return _unpack(packed, part, say)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def verified(packed: Path) -> bool:
    """Whether a downloaded package is the pinned one."""
    with packed.open("rb") as stream:
        return base64.b64encode(hashlib.file_digest(stream, "sha512").digest()).decode() == SHA512


def _unpack(packed: Path, part: Path, say: Callable[[str], None]) -> bool:
    with tarfile.open(packed) as archive:
        archive.extractall(part, filter="data")
    for name in ("chromium", "al2023.tar", "swiftshader.tar"):
        if not _run(["node", "-e", _INFLATE, str(part / "package" / "bin" / f"{name}.br"), str(part / name)], say):
            return False
    # Libraries that bare machines lack, and WebGL without a GPU.
    for name in ("al2023.tar", "swiftshader.tar"):
        with tarfile.open(part / name) as libraries:
            libraries.extractall(FOLDER, filter="data")
    (part / "chromium").chmod(0o755)
    # Last, so that a half-unpacked browser is not taken for one next time.
    (part / "chromium").replace(FOLDER / "chromium")
    return True


def _by_playwright(python: Path, say: Callable[[str], None]) -> bool:
    command = [str(python), "-m", "playwright", "install", "--only-shell", "chromium"]
    return _run(command, say, {**os.environ, "PLAYWRIGHT_BROWSERS_PATH": str(FOLDER)}) and find_browser() is not None


def _by_apt(say: Callable[[str], None]) -> bool:
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return False
    _run(["apt-get", "update", "-q"], say)
    return _run(["apt-get", "install", "-y", "-q", "--no-install-recommends", "chromium"], say) and find_browser() is not None


def _run(command: list[str], say: Callable[[str], None], environment: Mapping[str, str] | None = None) -> bool:
    shown = " ".join(command[:2] if "-e" in command else command)
    say(f"  $ {shown}")
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT, check=False, stdin=subprocess.DEVNULL, env=environment
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        say(f"    did not work: {error}")
        return False
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no output"]
        say(f"    did not work: {last[0]}")
    return done.returncode == 0
