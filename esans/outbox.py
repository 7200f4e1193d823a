"""What one process logs to one MLflow run, on disk until it has arrived.

A box is a folder `<root>/<run id>.<n>` with `journal.jsonl` (its first line names the run and the server), `delivered` (how many
bytes of it have arrived) and the files of artifacts. Whoever writes to a box or delivers from it holds a lock on its journal, which
the kernel frees when that process dies; so a restarted worker goes on in the box of the killed one, and a later run delivers boxes
that nobody holds. A box goes when all of it has arrived.

An entry is in the kernel's hands when `append` returns: a kill -9 of the process does not lose it. Against a crash of the host the
journal is synced to the disk before each delivery.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import fsspec

from esans.errors import EsansError
from esans.redaction import redact, restore_tracking_uri
from esans.uri import is_local, write_text

# {kind: content, ...}, the kind being the first key: metrics, params, tags, artifact or end.
Entry = Mapping[str, Any]

_JOURNAL, _DELIVERED, _REFUSED = "journal.jsonl", "delivered", "refused.jsonl"
_BYTES_PER_READ = 2**20


def root_of(work_dir: str) -> Path:
    """Where boxes of runs over a work folder lie: in it, or among this host's temporary files where it is no local folder.

    Raises:
        EsansError: somebody else made the folder among the temporary files.
    """
    filesystem, path = fsspec.core.url_to_fs(work_dir)
    return (Path(path) if is_local(filesystem) else _own_temporary()) / "undelivered"


def _own_temporary() -> Path:
    folder = Path(tempfile.gettempdir()) / f"esans-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    # Everybody can guess this name.
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise EsansError(f"{folder} is not this user's own folder: remove it, or set TMPDIR to a folder that nobody else can write.")
    return folder


def kind_of(entry: Entry) -> str:
    """What an entry is: its first key."""
    return next(iter(entry))


class Box:
    """One journal and how much of it has arrived. Made by `claim` and `take`, which hold its lock until `release`."""

    def __init__(self, folder: Path, file: int) -> None:
        self.folder, self._file = folder, file
        self._writing = threading.Lock()
        text = (folder / _JOURNAL).read_bytes()
        # A write that was cut short was never acknowledged.
        os.ftruncate(file, text.rfind(b"\n") + 1)
        self._numbers = itertools.count(len(list(folder.glob("artifact-*"))))
        header, _, _ = text.partition(b"\n")
        named = json.loads(header) if b"\n" in text else {"run_id": "", "tracking_uri": ""}
        self.run_id, self.tracking_uri = str(named["run_id"]), restore_tracking_uri(str(named["tracking_uri"]))
        self._arrived = text.find(b"\n") + 1
        with contextlib.suppress(OSError, ValueError):
            self._arrived = int((folder / _DELIVERED).read_text())

    @classmethod
    def claim(cls, root: Path, run_id: str, tracking_uri: str) -> Box:
        """A box to write to: the first of the run that no living process holds, with what a killed one left in it."""
        box, numbers = None, itertools.count()
        while box is None:
            folder = root / f"{run_id}.{next(numbers)}"
            # The root may go at this moment, with the last box of others.
            with contextlib.suppress(FileNotFoundError):
                folder.mkdir(parents=True, exist_ok=True)
            box = cls.take(folder)
        if not box.run_id:
            box.run_id, box.tracking_uri = run_id, tracking_uri
            box.append({"run_id": run_id, "tracking_uri": redact(tracking_uri)})
            box._arrived = os.fstat(box._file).st_size
        return box

    @classmethod
    def take(cls, folder: Path) -> Box | None:
        """The box in `folder`, or None while another process or object holds it, or when it has just gone."""
        try:
            file = os.open(folder / _JOURNAL, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except FileNotFoundError:
            return None
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever delivered the last of it may have removed it before the lock was free.
            if os.fstat(file).st_ino == (folder / _JOURNAL).stat().st_ino:
                return cls(folder, file)
        os.close(file)
        return None

    def append(self, entry: Entry) -> None:
        """Write one entry behind the others. Raises OSError when the disk is full."""
        line = json.dumps(entry).encode() + b"\n"
        with self._writing:
            before = os.fstat(self._file).st_size
            if os.write(self._file, line) < len(line):
                os.ftruncate(self._file, before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))

    def artifact(self, name: str) -> Path:
        """A path with this file name for what an entry `artifact` then names."""
        folder = self.folder / f"artifact-{next(self._numbers)}"
        folder.mkdir()
        return folder / name

    def waiting(self) -> Iterator[tuple[list[Entry], int]]:
        """Groups of entries of one kind that have not arrived, in order, each with the end to `note` when it has."""
        os.fsync(self._file)
        while lines := self._read():
            for _, same in itertools.groupby(lines, key=lambda line: kind_of(line[0])):
                group = list(same)
                yield [entry for entry, _ in group], group[-1][1]

    def count(self) -> int:
        """How many entries have not arrived."""
        with (self.folder / _JOURNAL).open("rb") as stream:
            stream.seek(self._arrived)
            return sum(1 for _ in stream)

    def note(self, end: int) -> None:
        """Remember that all before byte `end` has arrived."""
        write_text(str(self.folder / _DELIVERED), str(end))
        self._arrived = end

    def refuse(self, entry: Entry, reason: str) -> Path:
        """Put an entry aside that MLflow would never take, and return the file it is in."""
        path = self.folder / _REFUSED
        with path.open("a") as stream:
            stream.write(json.dumps({"reason": reason, "entry": entry}) + "\n")
        return path

    def release(self) -> None:
        """Give up the lock; the folder goes when all of it has arrived and nothing was refused."""
        if not self.count() and not (self.folder / _REFUSED).exists():
            shutil.rmtree(self.folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                self.folder.parent.rmdir()
        os.close(self._file)

    def _read(self) -> list[tuple[Entry, int]]:
        found, end = [], self._arrived
        with (self.folder / _JOURNAL).open("rb") as stream:
            stream.seek(end)
            for line in stream.readlines(_BYTES_PER_READ):
                # The last one may be half written.
                if line.endswith(b"\n"):
                    end += len(line)
                    found.append((json.loads(line), end))
        return found
