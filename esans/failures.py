"""Errors of worker processes, kept where their launcher and the next start of the workers find them.

A kill, a lost host and a hang are worth another start; an error that the same start would meet again is not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import fsspec

from esans.errors import EsansError
from esans.redaction import redact
from esans.uri import join, write_text

_FOLDER, _HANG = "failures", "hang"
# What a store says of names and rights is the same at the next start; its other errors may be of the moment.
_LASTING = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
# Packages that fsspec reaches stores through; many of their errors, of a broken transfer for one, are no OSError.
_CLIENTS = ("aiohttp", "azure", "botocore", "gcsfs")


@dataclass(frozen=True)
class Failure:
    """How a rank ended."""

    rank: int
    kind: str
    """Class of the error, or `hang`."""
    message: str
    step: int
    """Steps it had done or begun."""
    final: bool
    """Whether another start is no use."""


def record(scratch_uri: str, rank: int, error: BaseException, step: int) -> Failure:
    """Keep the error that ended a rank.

    Final are the errors of this project, which name their cure, unless a store that did not answer caused them; and any other that comes
    twice in a row at the same step in the same words. What a rank says because another one was lost is never final.
    """
    kind, message = type(error).__name__, redact(str(error))
    before = next((failure for failure in read(scratch_uri) if failure.rank == rank), None)
    again = before is not None and (before.kind, before.message, before.step) == (kind, message, step)
    named = isinstance(error, EsansError) and not caused_by_io(error)
    found = Failure(rank, kind, message, step, (named or again) and not any(_of_lost_peer(cause) for cause in _foreign(error)))
    _write(scratch_uri, str(rank), found)
    return found


def record_hang(scratch_uri: str, rank: int, verdict: str) -> None:
    """Keep the verdict on a hang, for launchers on other hosts."""
    _write(scratch_uri, _HANG, Failure(rank, _HANG, verdict, 0, False))


def read(scratch_uri: str) -> list[Failure]:
    """What ranks left since `clear`, the final ones first."""
    filesystem, path = fsspec.core.url_to_fs(join(scratch_uri, _FOLDER))
    filesystem.invalidate_cache()
    if not filesystem.exists(path):
        return []
    found = [Failure(**json.loads(filesystem.cat_file(file))) for file in sorted(filesystem.find(path)) if file.endswith(".json")]
    return sorted(found, key=lambda failure: (not failure.final, failure.rank))


def final(scratch_uri: str) -> Failure | None:
    """An error that makes another start useless, if a rank met one."""
    return next((failure for failure in read(scratch_uri) if failure.final), None)


def clear(scratch_uri: str) -> None:
    """Forget what an earlier job left."""
    filesystem, path = fsspec.core.url_to_fs(join(scratch_uri, _FOLDER))
    if filesystem.exists(path):
        filesystem.rm(path, recursive=True)


def forget_hang(scratch_uri: str) -> None:
    """Forget the verdict on an earlier start: what ends the next one may be something else."""
    filesystem, path = fsspec.core.url_to_fs(join(scratch_uri, _FOLDER, f"{_HANG}.json"))
    if filesystem.exists(path):
        filesystem.rm(path)


def _write(scratch_uri: str, name: str, failure: Failure) -> None:
    write_text(join(scratch_uri, _FOLDER, f"{name}.json"), json.dumps(asdict(failure)))


def caused_by_io(error: BaseException) -> bool:
    """Whether an error of a store that may be of the moment stands behind it, as far as `raise ... from` tells."""
    return any(_of_store(cause) and not isinstance(cause, _LASTING) for cause in _foreign(error))


def _of_store(error: BaseException) -> bool:
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _CLIENTS


def _foreign(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes, without those of this project: their words are about anything, connections included."""
    cause: BaseException | None = error
    while cause is not None:
        if not isinstance(cause, EsansError):
            yield cause
        cause = cause.__cause__


def _of_lost_peer(error: BaseException) -> bool:
    import torch.distributed as dist

    if isinstance(error, _LASTING):
        # The name of a file may hold any of the words.
        return False
    words = str(error).lower()
    return isinstance(error, dist.DistError | ConnectionError) or any(word in words for word in ("gloo", "nccl", "connection", "socket"))
