"""One holder at a time, at any fsspec URI, through the death of holders: numbered leases with a heartbeat.

    <uri>/000000000007.json     the lease with token 7: who holds it, since when, last sign of life, whether it was given back
    <uri>/holder.flock          on a local filesystem: locked by the living holder, so that its death shows at once

Taking the lease is the exclusive creation of the file with the next number, which one contender wins. Nobody but its holder ever
writes a file, so no compare-and-swap is needed. The number is the fencing token: whoever holds the highest one is the holder, and a
process that slept through its own end finds that out before it publishes (`verify`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import posixpath
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, Self

import fsspec

from esans.retrain.errors import Locked
from esans.uri import canonical, is_local, join, write_text

_POLL = 0.5  # seconds between two looks of a waiting contender
_SETTLE = 1.0  # seconds until two writers without exclusive creation see who was last
_KEPT = 5  # leases that stay readable


@dataclass(frozen=True)
class Holder:
    """One lease as it stands in its file. Times are unix seconds."""

    token: int
    owner: str
    host: str
    pid: int
    what: str
    since: float
    beat: float
    seconds: float
    flocked: bool
    """Whether it also holds the lock file of its host; one that took over from a paused holder does not."""
    released: bool = False

    def expired(self, now: float) -> bool:
        """Whether it gave no sign of life for its length."""
        return now - self.beat > self.seconds

    def describe(self, now: float) -> str:
        """Who holds it since when."""
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.since))
        return f"{self.what}, process {self.pid} on {self.host}, since {since} (last sign of life {max(now - self.beat, 0):.0f} s ago)"


class Lease:
    """Held from `acquire` to `release`; a thread beats in between.

    Args:
        uri: folder of the leases, any fsspec URI.
        what: shown to others, such as "retrain as of 2026-11-20".
        seconds: without a beat after which it counts as given up.
    """

    def __init__(self, uri: str, what: str, seconds: float) -> None:
        self.uri, self.what, self.seconds = canonical(uri), what, seconds
        self._fs, self._path = fsspec.core.url_to_fs(self.uri)
        self._local = is_local(self._fs)
        self._owner = uuid.uuid4().hex
        self._flock: IO[Any] | None = None
        self._held: Holder | None = None
        self._mutex = threading.Lock()
        self._stop = threading.Event()
        self._beating: threading.Thread | None = None

    @property
    def token(self) -> int:
        """The fencing token: higher than that of every earlier holder. 0 while nothing is held."""
        return self._held.token if self._held is not None else 0

    def acquire(self, wait_seconds: float = 0.0) -> Self:
        """Take the lease, or wait for it.

        Raises:
            Locked: it is held after `wait_seconds`; the message names who holds it since when.
        """
        deadline = time.monotonic() + wait_seconds
        while True:
            self._held = self._try()
            if self._held is not None:
                self._beating = threading.Thread(target=self._beat_on, name="lease", daemon=True)
                self._beating.start()
                return self
            if time.monotonic() >= deadline:
                holder = self.holder()
                who = holder.describe(time.time()) if holder is not None else "another process, just now"
                waited = f" after {wait_seconds:g} s" if wait_seconds else ""
                raise Locked(
                    f"{self.uri} is held{waited} by {who}.\n"
                    "  Nothing was done. Run again later, or wait with --retrain.lock.wait_seconds=SECONDS."
                )
            time.sleep(min(_POLL, max(deadline - time.monotonic(), 0.01)))

    def verify(self) -> None:
        """Make sure that this process is still the holder, with a fresh sign of life.

        Raises:
            Locked: another process took over, while this one was paused, say.
        """
        with self._mutex:
            held = self._held
            if held is None:
                raise Locked(f"{self.uri}: the lease was given back before the work was done.")
            newest = self._newest()
            if newest == held.token and not held.expired(time.time()):
                self._write(replace(held, beat=time.time()))
                return
            if newest <= held.token:
                # Nobody came while it was out: taken again under a new number, which only one process can.
                again = self._create(max(newest, held.token) + 1, since=held.since)
                if again is not None:
                    self._held = again
                    return
            holder = self.holder()
        who = holder.describe(time.time()) if holder is not None else "another process"
        raise Locked(f"{self.uri}: this process lost the lease {held.token}; it is held by {who}. Nothing more is published.")

    def holder(self) -> Holder | None:
        """Whose lease is the newest; None where it was given back or there is none."""
        found = self._read(self._newest())
        return found if found is not None and not found.released else None

    def release(self) -> None:
        """Give the lease back."""
        self._stop.set()
        if self._beating is not None:
            self._beating.join(self.seconds)
        with self._mutex:
            if self._held is not None:
                self._write(replace(self._held, beat=time.time(), released=True))
                self._held = None
        self._drop_flock()

    def _try(self) -> Holder | None:
        newest = self._newest()
        holder = self._read(newest)
        alone = self._take_flock()
        # On this host the kernel knows whether the holder lives; elsewhere only its silence tells.
        dead = holder is not None and alone and holder.flocked and holder.host == socket.gethostname()
        free = holder is None or holder.released or dead or holder.expired(time.time())
        mine = self._create(newest + 1) if free else None
        if mine is None:
            self._drop_flock()
        return mine

    def _create(self, token: int, since: float | None = None) -> Holder | None:
        now = time.time()
        place = (socket.gethostname(), os.getpid(), self.what)
        mine = Holder(token, self._owner, *place, since or now, now, self.seconds, self._flock is not None)
        if not self._create_file(self._file(token), json.dumps(asdict(mine)).encode()):
            return None
        if not self._local:
            time.sleep(_SETTLE)
        # Old numbers are cleared away, so a sleeper may create one again: only the highest counts.
        read = self._read(token)
        if self._newest() != token or read is None or read.owner != self._owner:
            return None
        for old in self._tokens()[:-_KEPT]:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(self._file(old))
        return mine

    def _create_file(self, path: str, content: bytes) -> bool:
        """Create a file with its whole content; False where it is there already."""
        self._fs.makedirs(self._path, exist_ok=True)
        try:
            if not self._local:
                self._fs.pipe_file(path, content, mode="create")
                return True
            part = Path(f"{path}.{self._owner}.part")
            part.write_bytes(content)
            try:
                os.link(part, path)
            finally:
                part.unlink()
        except FileExistsError:
            return False
        return True

    def _beat_on(self) -> None:
        while not self._stop.wait(self.seconds / 4):
            with contextlib.suppress(Exception), self._mutex:
                # A lease that ran out is not stretched: `verify` decides. A filesystem that is away for a while is no reason to stop.
                held = self._held
                if held is not None and not held.expired(time.time()) and self._newest() == held.token:
                    self._write(replace(held, beat=time.time()))

    def _write(self, holder: Holder) -> None:
        write_text(join(self.uri, posixpath.basename(self._file(holder.token))), json.dumps(asdict(holder)))
        self._held = holder

    def _tokens(self) -> list[int]:
        self._fs.invalidate_cache()
        try:
            names = [posixpath.basename(path) for path in self._fs.ls(self._path, detail=False)]
        except FileNotFoundError:
            return []
        return sorted(int(name.removesuffix(".json")) for name in names if name.endswith(".json"))

    def _newest(self) -> int:
        tokens = self._tokens()
        return tokens[-1] if tokens else 0

    def _read(self, token: int) -> Holder | None:
        try:
            return Holder(**json.loads(self._fs.cat_file(self._file(token))))
        except FileNotFoundError:
            return None

    def _file(self, token: int) -> str:
        return posixpath.join(self._path, f"{token:012d}.json")

    def _take_flock(self) -> bool:
        """Whether no living process of this host holds the lock file; it is this one's from then on."""
        if not self._local:
            return False
        self._fs.makedirs(self._path, exist_ok=True)
        stream = Path(self._path, "holder.flock").open("w")  # noqa: SIM115 (it stays open as long as the lease is held)
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            stream.close()
            return False
        self._flock = stream
        return True

    def _drop_flock(self) -> None:
        if self._flock is not None:
            self._flock.close()
            self._flock = None


@contextlib.contextmanager
def held(uri: str, what: str, seconds: float, wait_seconds: float) -> Iterator[Lease]:
    """The lease at `uri`, held inside the block. Raises Locked as `acquire` does."""
    lease = Lease(uri, what, seconds).acquire(wait_seconds)
    try:
        yield lease
    finally:
        lease.release()
