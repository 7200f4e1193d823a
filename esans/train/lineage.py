"""Which examples made the weights: a record of every step for debugging, and what it says along the lineage of the last weights.

Steps after a checkpoint that a kill threw away are in no weights. So what counts are the steps from which the last weights descend: of
the last start those after the checkpoint it went on from, of the start that wrote this checkpoint those before it, and so on.
Examples are told apart by a digest of what the step was given, not by the loader's bookkeeping, which is what is on trial.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import fsspec
import numpy as np
import torch

from esans import columns as c
from esans.errors import ConfigError, EsansError
from esans.negatives.base import Batch
from esans.table import Table
from esans.uri import is_local, join

FOLDER = "steps"
# Of a file: pid, world size, step of the checkpoint it goes on from, start in ns. Of a step: step, epoch, place, end in ns, examples.
_HEADER, _STEP = 4, 5


class BrokenRecord(EsansError):
    """The record does not hold the steps that the last weights descend from."""


class StepRecord:
    """Writes one file for each rank and start; a step is in the kernel's hands when the call returns, so a kill -9 loses none.

    Args:
        scratch_uri: a local folder.
        rank: of this process.
        world_size: how many there are.
        resumed_from: the step of the checkpoint that this start goes on from, or 0.

    Raises:
        ConfigError: the folder is on no local filesystem; others can't append.
    """

    def __init__(self, scratch_uri: str, rank: int, world_size: int, resumed_from: int) -> None:
        filesystem, path = fsspec.core.url_to_fs(join(scratch_uri, FOLDER))
        if not is_local(filesystem):
            raise ConfigError(f"train.checkpoint.record_steps appends to files, which {scratch_uri} can't: set it to false.")
        Path(path).mkdir(parents=True, exist_ok=True)
        began = time.time_ns()
        self._file = os.open(f"{path}/{began}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(self._file, np.array([os.getpid(), world_size, resumed_from, began], np.int64).tobytes())

    def __call__(self, batch: Batch, epoch: int, place: int, step: int) -> None:
        """Note the examples of a step that is done; those of weight 0 only fill the batch."""
        found = digests(batch.user_idx, batch.target, batch.history, batch.weight)
        head = np.array([step, epoch, place, time.time_ns(), len(found)], np.int64)
        os.write(self._file, head.tobytes() + found.tobytes())


@dataclass(frozen=True)
class Step:
    """One step of one rank."""

    epoch: int
    place: int
    ended: float
    """Seconds since 1970."""
    examples: np.ndarray
    """(n,) uint64, their digests."""


@dataclass(frozen=True)
class Start:
    """What one rank did between its start and its end."""

    rank: int
    pid: int
    world_size: int
    resumed_from: int
    began: float
    """Seconds since 1970."""
    steps: dict[int, Step]


def read(scratch_uri: str) -> list[Start]:
    """All starts of all ranks in order of time; a step that was cut short is left out."""
    _, path = fsspec.core.url_to_fs(join(scratch_uri, FOLDER))
    files = sorted(Path(path).glob("*.*"), key=lambda file: int(file.stem)) if Path(path).is_dir() else []
    return [_start(file) for file in files if file.stat().st_size >= _HEADER * 8]


def lineage(starts: Sequence[Start], last: int) -> list[tuple[int, list[Step]]]:
    """The steps 1 .. `last` from which the weights after step `last` descend, each with its part of every rank.

    A checkpoint is of the latest start before the one that went on from it which did its step: an earlier one that did it too had
    not finished writing it when the later one began, else that would not have done the step again; and it was dead by then.

    Raises:
        BrokenRecord: a rank's part of a step is missing.
    """
    found: list[tuple[int, list[Step]]] = []
    upto, before = last, float("inf")
    while upto:
        lead = _latest(starts, 0, upto, before, None)
        group = [lead] + [_latest(starts, rank, upto, before, lead.resumed_from) for rank in range(1, lead.world_size)]
        wanted = range(upto, lead.resumed_from, -1)
        if any(step not in start.steps for start in group for step in wanted):
            raise BrokenRecord(f"the start of {lead.began:.3f} went on from step {lead.resumed_from} but lacks a step up to {upto}")
        found += [(step, [start.steps[step] for start in group]) for step in wanted]
        upto, before = lead.resumed_from, min(start.began for start in group)
    return found[::-1]


def lost_and_repeated(starts: Sequence[Start], last: int, expected: np.ndarray) -> tuple[int, int]:
    """Examples that an epoch of the lineage never used, and uses of one beyond the first, summed over epochs.

    Args:
        starts: of `read`.
        last: the step of the last weights, at the end of an epoch.
        expected: (n,) uint64 digests of all examples of an epoch; equal ones stand for equal examples.
    """
    epochs: dict[int, list[np.ndarray]] = {}
    for _, parts in lineage(starts, last):
        for part in parts:
            epochs.setdefault(part.epoch, []).append(part.examples)
    differences = [_difference(np.concatenate(parts), expected) for parts in epochs.values()]
    return sum(lost for lost, _ in differences), sum(repeated for _, repeated in differences)


def digests_of(table: Table) -> np.ndarray:
    """Digests of all examples of a table, (n,) uint64, read without the loader."""
    names = (c.USER_IDX, c.TARGET, c.HISTORY, c.WEIGHT)
    parts = []
    for batch in table.batches(names):
        user, target, history, weight = (batch.column(names.index(name)) for name in names)
        rows = np.asarray(history.flatten()).reshape(len(batch), -1)
        parts.append(digests(*(torch.from_numpy(np.array(values)) for values in (user, target, rows, weight))))
    return np.concatenate(parts)


def digests(user_B: torch.Tensor, target_B: torch.Tensor, history_BH: torch.Tensor, weight_B: torch.Tensor) -> np.ndarray:
    """64 bits that tell the examples of a batch apart, without those of weight 0: (n,) uint64."""
    table_BC = torch.cat([user_B[:, None].long(), target_B[:, None].long(), history_BH.long()], dim=1)[weight_B != 0]
    # A polynomial in an odd number modulo 2^64, after the values were spread over all bits.
    values_BC = (table_BC.cpu().numpy().astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    values_BC ^= values_BC >> np.uint64(29)
    powers_C = np.cumprod(np.full(values_BC.shape[1], 0xBF58476D1CE4E5B9, np.uint64), dtype=np.uint64)
    return np.asarray((values_BC * powers_C).sum(axis=1, dtype=np.uint64))


def _start(file: Path) -> Start:
    data = file.read_bytes()
    pid, world_size, resumed_from, began = np.frombuffer(data, np.int64, _HEADER).tolist()
    steps, place = {}, _HEADER * 8
    while place + _STEP * 8 <= len(data):
        step, epoch, in_epoch, ended, examples = np.frombuffer(data, np.int64, _STEP, place).tolist()
        place += _STEP * 8 + examples * 8
        if place <= len(data):
            steps[step] = Step(epoch, in_epoch, ended / 1e9, np.frombuffer(data, np.uint64, examples, place - examples * 8))
    return Start(int(file.suffix[1:]), pid, world_size, resumed_from, began / 1e9, steps)


def _latest(starts: Iterable[Start], rank: int, step: int, before: float, resumed_from: int | None) -> Start:
    fit = [start for start in starts if start.rank == rank and step in start.steps and start.began < before]
    fit = [start for start in fit if resumed_from is None or start.resumed_from == resumed_from]
    if not fit:
        raise BrokenRecord(f"no start of rank {rank} did step {step}")
    return max(fit, key=lambda start: start.began)


def _difference(got: np.ndarray, expected: np.ndarray) -> tuple[int, int]:
    values, place = np.unique(np.concatenate([got, expected]), return_inverse=True)
    balance = np.bincount(place[: len(got)], minlength=len(values)) - np.bincount(place[len(got) :], minlength=len(values))
    return int(-balance[balance < 0].sum()), int(balance[balance > 0].sum())
