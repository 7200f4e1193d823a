"""What stands between rows in memory and a batch on the device: a thread that works ahead, pinned buffers and a copying stream."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, Self, TypeVar

import numpy as np
import torch

from esans import columns as c
from esans.negatives.base import Batch
from esans.train.window_rows import WindowRows

T = TypeVar("T")
Ready = tuple[Batch, torch.cuda.Event | None]
_END = object()


class Ahead(Generic[T]):
    """Items of an iterator that a thread runs, at most `depth` of them ahead, beginning now; an error comes out of `next`.

    `close` ends the thread; so does the end of the items.
    """

    def __init__(self, make: Callable[[], Iterator[T]], depth: int) -> None:
        self._ready: queue.Queue[Any] = queue.Queue(depth)
        self._stop = threading.Event()
        self._failed: list[BaseException] = []
        threading.Thread(target=self._produce, args=(make,), daemon=True, name="loader").start()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        item: Any = _END if self._stop.is_set() else self._ready.get()
        if item is _END:
            self._stop.set()
            if self._failed:
                raise self._failed.pop()
            raise StopIteration
        found: T = item
        return found

    def close(self) -> None:
        """End the thread at its next item."""
        self._stop.set()

    def _produce(self, make: Callable[[], Iterator[T]]) -> None:
        try:
            for item in make():
                self._put(item)
                if self._stop.is_set():
                    return
        except BaseException as error:
            self._failed.append(error)
        self._put(_END)

    def _put(self, item: Any) -> None:
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=0.2)
                return
            except queue.Full:
                continue


class Memory:
    """Tensors on the CPU in memory that comes back once no tensor uses it: new memory costs a page fault for every 4 kB of a batch."""

    def __init__(self) -> None:
        self._free: dict[tuple[tuple[int, ...], np.dtype], list[np.ndarray]] = {}

    def tensor(self, shape: tuple[int, ...], dtype: np.dtype) -> torch.Tensor:
        """A tensor of any content."""
        free = self._free.setdefault((shape, dtype), [])
        array = free.pop() if free else np.empty(shape, dtype)
        # The tensor's storage, which its views share, holds this view; the array itself is held here.
        view = array.view()
        weakref.finalize(view, free.append, array).atexit = False
        return torch.from_numpy(view)


class Collator:
    """Puts runs of rows together to batches of `size` rows on the device: one gather a column, file and run, straight into their tensors.

    On CUDA, these are pinned and hold the types of the shards; batches are copied and widened to int64 on a stream of their own,
    beside the step, and `receive` makes the step's stream wait for that, not the host. On a CPU the gather widens, into the memory
    of earlier batches.
    """

    def __init__(self, size: int, device: torch.device, build: Callable[[Mapping[str, torch.Tensor]], Batch]) -> None:
        self.size, self.build, self.device = size, build, device
        self.pinned = device.type == "cuda"
        self.stream = torch.cuda.Stream(device) if self.pinned else None
        self._memory = Memory()
        self._buffers: dict[str, torch.Tensor] = {}
        self._filled = 0
        self._spare: tuple[WindowRows, np.ndarray] | None = None

    def add(self, window: WindowRows, rows: np.ndarray) -> Iterator[Ready]:
        """The batches that become full by adding `rows` of `window`."""
        self.pad_with(window, rows)
        start = 0
        while start < len(rows):
            run = rows[start : start + self.size - self._filled]
            self._fill(window, run)
            start += len(run)
            if self._filled == self.size:
                yield self._send()

    def pad_with(self, window: WindowRows, rows: np.ndarray) -> None:
        """Take the last row as what short batches are filled with: the same one wherever the epoch was resumed.

        Its weight of 0 keeps it out of the loss, but the shapes of the step, and with them the last bits, follow from its items.
        """
        self._spare = window, rows[-1:]

    def padded(self) -> Ready:
        """A batch of what is left, filled with examples of weight 0."""
        assert self._spare is not None
        live, (window, row) = self._filled, self._spare
        self._fill(window, row.repeat(self.size - live))
        self._buffers[c.WEIGHT][live:] = 0
        return self._send()

    def receive(self, ready: Ready) -> Batch:
        """The batch, safe to use on the current stream."""
        batch, event = ready
        if event is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(event)
            for tensor in (batch.user_idx, batch.history, batch.target, batch.weight, batch.known, *batch.extra.values()):
                # Made on the copying stream: its memory must not be given away before the step is done with it.
                tensor.record_stream(current)
        return batch

    def _fill(self, window: WindowRows, rows: np.ndarray) -> None:
        if not self._filled:
            self._buffers = {name: self._empty(*shape) for name, shape in window.shapes().items()}
        stop = self._filled + len(rows)
        window.take(rows, {name: buffer[self._filled : stop].numpy() for name, buffer in self._buffers.items()})
        self._filled = stop

    def _empty(self, dtype: np.dtype, shape: tuple[int, ...]) -> torch.Tensor:
        if self.pinned:
            return torch.empty((self.size, *shape), dtype=torch.from_numpy(np.empty(0, dtype)).dtype, pin_memory=True)
        return self._memory.tensor((self.size, *shape), dtype if dtype.kind == "f" else np.dtype(np.int64))

    def _send(self) -> Ready:
        buffers, self._buffers, self._filled = self._buffers, {}, 0
        if self.stream is None:
            return self.build(buffers), None
        with torch.cuda.stream(self.stream):
            batch = self.build({name: tensor.to(self.device, non_blocking=True) for name, tensor in buffers.items()})
            return batch, self.stream.record_event()
