"""Batches of one rank: the plan's rows, read ahead by a thread, as tensors on the training device."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from esans import columns as c
from esans.negatives.base import Batch
from esans.petastorm_reader import read_files
from esans.table import Table
from esans.train.plan import EpochPlan, Interval, Window, split, steps_per_epoch

_COLUMNS = (c.USER_IDX, c.HISTORY, c.TARGET, c.WEIGHT, c.KNOWN)
Columns = dict[str, np.ndarray]


class Loader:
    """Yields the batches of one rank in one epoch; `wait_seconds` is how long the trainer waited for them."""

    def __init__(
        self,
        table: Table,
        rank_batch: int,
        rank: int,
        world_size: int,
        device: torch.device,
        window_files: int,
        prefetch: int,
        seed: int,
        extra: Sequence[str] = (),
        keep: bool = False,
        rows_per_epoch: int | None = None,
        num_items: int | None = None,
    ) -> None:
        self.table, self.rank_batch, self.device = table, rank_batch, device
        self.rank, self.world_size = rank, world_size
        self.window_files, self.prefetch, self.seed = window_files, prefetch, seed
        self.wait_seconds = 0.0
        self.extra = tuple(extra)
        self.columns = (*_COLUMNS, *self.extra)
        self.rows_per_epoch, self.num_items = rows_per_epoch, num_items
        self.kept: dict[str, Columns] | None = {} if keep else None

    def plan(self, epoch: int) -> EpochPlan:
        """The stream of an epoch, the same on every rank."""
        return EpochPlan([file.rows for file in self.table.files], self.window_files, self.seed, epoch)

    def steps(self, epoch: int) -> int:
        """Steps of the epoch, the same on every rank."""
        return steps_per_epoch(self._intervals(self.plan(epoch)), self.rank_batch, self.world_size)

    def _intervals(self, plan: EpochPlan) -> list[Interval]:
        # The stream is in random order, so its beginning is a sample.
        return plan.whole() if self.rows_per_epoch is None else [(0, min(plan.rows, self.rows_per_epoch))]

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Batches of an epoch."""
        plan = self.plan(epoch)
        part = split(self._intervals(plan), self.rank, self.world_size)
        steps = self.steps(epoch)
        ready: queue.Queue[Columns | BaseException | None] = queue.Queue(self.prefetch)
        stop = threading.Event()
        thread = threading.Thread(target=self._produce, args=(plan, part, steps, ready, stop), daemon=True)
        thread.start()
        try:
            while True:
                started = time.perf_counter()
                item = ready.get()
                self.wait_seconds += time.perf_counter() - started
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                yield self._to_device(item)
        finally:
            stop.set()

    def _produce(
        self,
        plan: EpochPlan,
        part: Sequence[Interval],
        steps: int,
        ready: queue.Queue[Columns | BaseException | None],
        stop: threading.Event,
    ) -> None:
        def put(item: Columns | BaseException | None) -> None:
            while not stop.is_set():
                try:
                    ready.put(item, timeout=0.2)
                    return
                except queue.Full:
                    continue

        try:
            for batch in self._batches(plan, part, steps):
                put(batch)
                if stop.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    def _batches(self, plan: EpochPlan, part: Sequence[Interval], steps: int) -> Iterator[Columns]:
        left: Columns | None = None
        made = 0
        last: Columns | None = None
        for rows in self._rows(plan, part):
            left = rows if left is None else {name: np.concatenate([left[name], rows[name]]) for name in self.columns}
            while len(left[c.TARGET]) >= self.rank_batch:
                last = {name: values[: self.rank_batch] for name, values in left.items()}
                left = {name: values[self.rank_batch :] for name, values in left.items()}
                made += 1
                yield last
        # Every rank takes `steps` steps: what is short is filled with examples that weigh nothing.
        while made < steps:
            last = _padded(left, last, self.rank_batch)
            left = None
            made += 1
            yield last

    def _rows(self, plan: EpochPlan, part: Sequence[Interval]) -> Iterator[Columns]:
        """The rows of `part`, window by window, in stream order."""
        wanted = [(window, stretches) for window in plan.windows if (stretches := _overlap(window, part))]
        files = self._files([self.table.file_uris[place] for window, _ in wanted for place in window.files])
        for window, stretches in wanted:
            read = [next(files) for _ in window.files]
            columns = {name: np.concatenate([file[name] for file in read]) for name in self.columns}
            order = window.permutation()
            chosen = np.concatenate([order[start - window.start : stop - window.start] for start, stop in stretches])
            yield {name: values[chosen] for name, values in columns.items()}

    def _files(self, uris: Sequence[str]) -> Iterator[Columns]:
        """Files in the order of `uris`; those of an earlier epoch come from memory where they are kept."""
        if self.kept is None:
            yield from read_files(uris, self.columns)
            return
        missing = [uri for uri in uris if uri not in self.kept]
        read = read_files(missing, self.columns) if missing else iter(())
        for uri in uris:
            if uri not in self.kept:
                self.kept[uri] = next(read)
            yield self.kept[uri]

    def _to_device(self, columns: Columns) -> Batch:
        def tensor(name: str, dtype: torch.dtype) -> torch.Tensor:
            host = torch.from_numpy(np.ascontiguousarray(columns[name]))
            if self.device.type == "cuda":
                host = host.pin_memory()
            return host.to(self.device, dtype, non_blocking=True)

        ids = torch.int64
        return Batch(
            user_idx=tensor(c.USER_IDX, ids),
            history=tensor(c.HISTORY, ids),
            target=tensor(c.TARGET, ids),
            weight=tensor(c.WEIGHT, torch.float32),
            known=tensor(c.KNOWN, ids),
            num_items=self.num_items,
            extra={name: tensor(name, ids) for name in self.extra},
        )


def _overlap(window: Window, part: Sequence[Interval]) -> list[Interval]:
    stop = window.start + window.rows
    cut = [(max(low, window.start), min(high, stop)) for low, high in part]
    return [(low, high) for low, high in cut if low < high]


def _padded(rows: Columns | None, template: Columns | None, size: int) -> Columns:
    if rows is None or not len(rows[c.TARGET]):
        if template is None:
            raise ValueError("a rank has no example to pad with: there are fewer examples than processes")
        rows = {name: values[:0] for name, values in template.items()}
    source = rows if len(rows[c.TARGET]) else template
    assert source is not None
    missing = size - len(rows[c.TARGET])
    filler = {name: np.resize(values[:1], (missing, *values.shape[1:])) for name, values in source.items()}
    filler[c.WEIGHT] = np.zeros(missing, source[c.WEIGHT].dtype)
    return {name: np.concatenate([rows[name], filler[name]]) for name in rows}
