"""What the methods experiment has measured so far: an append-only file of runs, and per-user recalls beside it.

The row of a run is the contract between the runner, which writes it, and the report, which reads nothing else.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

Row = dict[str, Any]

WITHIN_WALL = "+wall"
"""Per-user recalls of a run's best epoch within the equal training time are kept under its key with this at the end."""

PHASES = ("tune", "seed", "reference", "ablation", "encodings", "steps", "controls", "cost", "data")
"""What a run was for: tuning on validation, the five seeds of a winner, a method without towers, and the studies around them. Rows of
`data` are no runs: they hold how large a data set is."""


@dataclass(frozen=True)
class Ranks:
    """Recall of each test user of one run: `user_idx` int64 (U,), `recall50` and `recall200` float32 (U,), in [0, 1]."""

    user_idx: NDArray[np.int64]
    recall50: NDArray[np.float32]
    recall200: NDArray[np.float32]


class Store:
    """A folder with `runs.jsonl` and `ranks/<key>.npz`.

    Processes append one after another, under a lock; a line that was torn by a kill is dropped when read, and cut off before
    the next append, so the run that it belonged to is simply run again. The file is read again whenever its size has changed.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.path = self.folder / "runs.jsonl"
        self._rows: dict[str, Row] = {}
        self._parsed = 0

    def append(self, row: Row) -> None:
        """Add one run; it is on the disk when this returns. ValueError for a key that is there already or an unknown phase."""
        key = row["key"]
        if row["phase"] not in PHASES:
            raise ValueError(f"run '{key}': phase '{row['phase']}' is none of {', '.join(PHASES)}")
        line = json.dumps(row, sort_keys=True, default=_plain).encode() + b"\n"
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if self.find(key) is not None:
                raise ValueError(f"run '{key}' is in {self.path} already; a key names one run")
            file.truncate(self._parsed)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def rows(self, **equals: Any) -> list[Row]:
        """The runs whose fields have these values, in the order in which they were appended."""
        return [row for row in self._read().values() if all(row.get(name) == value for name, value in equals.items())]

    def find(self, key: str) -> Row | None:
        """The run of this key, or None."""
        return self._read().get(key)

    def put_ranks(self, key: str, user_idx: NDArray[np.int64], recall50: NDArray[np.float32], recall200: NDArray[np.float32]) -> None:
        """Keep the per-user recalls of a run, by user; written beside and renamed, so a kill leaves no half file."""
        arrays = Ranks(np.asarray(user_idx, np.int64), np.asarray(recall50, np.float32), np.asarray(recall200, np.float32))
        if not arrays.user_idx.shape == arrays.recall50.shape == arrays.recall200.shape == (arrays.user_idx.size,):
            shapes = f"{arrays.user_idx.shape}, {arrays.recall50.shape}, {arrays.recall200.shape}"
            raise ValueError(f"ranks of run '{key}' need three arrays of one length, not {shapes}")
        path = self._ranks_path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        torn = path.with_name(f".{path.name}.{os.getpid()}.part")
        with torn.open("wb") as file:
            order = np.argsort(arrays.user_idx, kind="stable")
            # Steps from one user to the next are mostly 1: a tenth of the bytes.
            steps = np.diff(arrays.user_idx[order], prepend=0).astype(np.int32)
            np.savez_compressed(file, user_step=steps, recall50=arrays.recall50[order], recall200=arrays.recall200[order])
            file.flush()
            os.fsync(file.fileno())
        torn.replace(path)

    def ranks(self, key: str) -> Ranks | None:
        """The per-user recalls of a run, or None where none were kept."""
        path = self._ranks_path(key)
        if not path.is_file():
            return None
        try:
            with np.load(path) as file:
                return Ranks(file["user_step"].cumsum(dtype=np.int64), file["recall50"], file["recall200"])
        except (BadZipFile, KeyError, ValueError, EOFError) as error:
            raise ValueError(f"{path} cannot be read as per-user recalls ({error}); delete it and run '{key}' again") from error

    def _ranks_path(self, key: str) -> Path:
        return self.folder / "ranks" / f"{re.sub(r'[^A-Za-z0-9._=,+-]', '~', key)}.npz"

    def _read(self) -> dict[str, Row]:
        """All rows; only what was added since the last reading is parsed, unless the file was cut or replaced."""
        size = self.path.stat().st_size if self.path.is_file() else 0
        if size < self._parsed:
            self._rows, self._parsed = {}, 0
        if size > self._parsed:
            with self.path.open("rb") as file:
                file.seek(self._parsed)
                added = file.read()
            whole = added[: added.rfind(b"\n") + 1]
            self._rows |= {row["key"]: row for row in map(json.loads, whole.splitlines())}
            self._parsed += len(whole)
        return self._rows


def _plain(value: Any) -> Any:
    """Numbers of numpy and torch, and paths, as JSON."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON: {value!r}")
