"""The worker's half of a model encoder: one model a process, on the task's device, and batches through it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from esans.columns import IMAGE_MODALITY, ITEM_IDX
from esans.features import pictures
from esans.features.vectors import STATUS, VECTOR, list_array

if TYPE_CHECKING:
    from pyspark import TaskContext
    from pyspark.accumulators import Accumulator

CONTENT, PAYLOAD, DETAIL = "content", "payload", "detail"
ENCODED = [CONTENT, VECTOR, STATUS, DETAIL]
# Marks, in a worker's traceback, the line that people should read.
MARK = "esans encoder: "
HASH_DIGITS = 32

# Models of this process by modality: ((identity, device), model). A worker outlives its task, so each is loaded once.
_LOADED: dict[str, tuple[tuple[str, str], Any]] = {}


@dataclass(frozen=True)
class Work:
    """What a worker must know of an encoder."""

    module: str
    """Module with `load(section, device)`, which returns an object with `encode` and, if it likes, `prepare` and `chunk`."""
    modality: str
    section: Any
    identity: str
    """Hash of everything that the vectors depend on but the content."""


def encode_batches(work: Work, batches: Iterator[pa.RecordBatch], done: Accumulator[int]) -> Iterator[pa.RecordBatch]:
    """content, payload -> content, vector list<float> or null, status, detail."""
    for batch in batches:
        if not batch.num_rows:
            continue
        model = loaded(work)
        chunk = getattr(model, "chunk", work.section.batch_size)
        for start in range(0, batch.num_rows, chunk):
            part = batch.slice(start, chunk)
            yield _encode(work, model, part)
            done.add(part.num_rows)


def _encode(work: Work, model: Any, part: pa.RecordBatch) -> pa.RecordBatch:
    contents = part.column(1).to_pylist()
    status = [pictures.OK] * len(contents)
    detail: list[str | None] = [None] * len(contents)
    if work.modality == IMAGE_MODALITY:
        contents, status, detail = _open(work, model, contents)
    good = np.array([one == pictures.OK for one in status])
    vectors: pa.Array = pa.nulls(len(contents), pa.list_(pa.float32()))
    if good.any():
        found = checked(model.encode([content for content, one in zip(contents, good, strict=True) if one]), int(good.sum()), work)
        dense = np.zeros((len(contents), found.shape[1]), np.float32)
        dense[good] = found
        vectors = list_array(dense, good)
    return pa.RecordBatch.from_arrays([part.column(0), vectors, pa.array(status), pa.array(detail, pa.string())], ENCODED)


def _open(work: Work, model: Any, contents: Sequence[Any]) -> tuple[list[Any], list[str], list[str | None]]:
    # Reading, decoding and the model's own preprocessing share a thread, so that large pictures do not pile up.
    limits, prepare = limits_of(work.section), getattr(model, "prepare", None)

    def open_one(content: str | bytes) -> Any:
        image = pictures.decode(pictures.read(content, limits) if isinstance(content, str) else content, limits)
        return prepare(image) if prepare else image

    opened = list(pictures.attempt(open_one, contents, work.section.read_threads))
    return [one for one, _, _ in opened], [kind for _, kind, _ in opened], [why for _, _, why in opened]


def checked(vectors: Any, rows: int, work: Work) -> np.ndarray:
    """An encoder's result as (rows, d) float32. Raises RuntimeError, with the mark, when it is no such thing."""
    found = np.asarray(vectors)
    if found.ndim != 2 or len(found) != rows or found.shape[1] == 0 or found.dtype.kind not in "fiu":
        raise RuntimeError(
            f"{MARK}features.{work.modality}.encoder: encode() of {rows} contents gave an array of shape {found.shape} and type "
            f"{found.dtype}; ({rows}, d) floats belong there."
        )
    return found.astype(np.float32)


def limits_of(section: Any) -> pictures.Limits:
    """Bounds of one picture from the image section."""
    return pictures.Limits(section.max_bytes, section.max_pixels, tuple(section.roots))


def hash_batches(section: Any, batches: Iterator[pa.RecordBatch], done: Accumulator[int]) -> Iterator[pa.RecordBatch]:
    """item_idx, URI -> item_idx, hash of the content there (null where it cannot be read), status, detail."""

    def digest(uri: str) -> str:
        return hashlib.sha256(pictures.read(uri, limits_of(section))).hexdigest()[:HASH_DIGITS]

    for batch in batches:
        found = []
        for one in pictures.attempt(digest, batch.column(1).to_pylist(), section.read_threads):
            found.append(one)
            done.add(1)
        columns = [pa.array([one[place] for one in found], pa.string()) for place in range(3)]
        yield pa.RecordBatch.from_arrays([batch.column(0), *columns], [ITEM_IDX, CONTENT, STATUS, DETAIL])


def loaded(work: Work) -> Any:
    """The model, loaded at the first call in this process and kept; that of another encoder of the same modality makes room."""
    from pyspark import TaskContext

    place = device(TaskContext.get())
    key = work.identity, place
    if work.modality not in _LOADED or _LOADED[work.modality][0] != key:
        # Gone before the next one comes: both may not fit on the device.
        _LOADED.pop(work.modality, None)
        _LOADED[work.modality] = key, _load(work, place)
    return _LOADED[work.modality][1]


def _load(work: Work, place: str) -> Any:
    # The tokenizers' own threads would fight with the other tasks of this machine.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        return import_module(work.module).load(work.section, place)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise RuntimeError(f"{MARK}features.{work.modality}.encoder: the model cannot be loaded on an executor: {reason}") from error


def device(task: TaskContext | None) -> str:
    """`cuda:N` where Spark assigned a GPU to the task, else `cpu` with as many torch threads as the task has cores.

    Raises:
        RuntimeError: Spark assigned a GPU, and torch sees none.
    """
    import torch

    gpu = task.resources().get("gpu") if task is not None else None
    if gpu is None or not gpu.addresses:
        torch.set_num_threads(max(task.cpus() if task is not None else 1, 1))
        return "cpu"
    if not torch.cuda.is_available():
        raise RuntimeError(
            f"{MARK}Spark assigned GPU {gpu.addresses[0]} to a task, and torch sees no GPU on that executor. Install its CUDA build there."
        )
    return f"cuda:{cuda_index(gpu.addresses[0], os.environ.get('CUDA_VISIBLE_DEVICES', ''))}"


def cuda_index(address: str, visible: str) -> int:
    """Torch's number of the GPU that Spark calls `address`: the place among the visible ones where only some are."""
    shown = [name.strip() for name in visible.split(",") if name.strip()]
    return shown.index(address) if address in shown else int(address)
