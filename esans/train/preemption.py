"""SIGTERM, by which schedulers announce that they take a machine back: finish the step, write a checkpoint, leave."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist

from esans.errors import EsansError


class Preempted(EsansError):
    """Training stopped on SIGTERM after writing a checkpoint; the message says where it is."""


class Preemption:
    """Notes SIGTERM inside its block; the handler of before is put back at its end.

    Several ranks have to stop at the same step, and a signal reaches them at different times: they take the largest of their
    flags over a group on the host, which costs the device nothing, and only every `every` steps. One process looks after each step.

    Args:
        group: a group of all ranks that reduces host tensors, or None for one process.
        every: steps between two looks of several ranks.
    """

    def __init__(self, group: dist.ProcessGroup | None, every: int) -> None:
        self.group, self.every = group, every
        self.signalled = False
        self._before: Any = None

    def __enter__(self) -> Self:
        # Python delivers signals to the main thread only, and lets only it set handlers.
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def due(self, step: int) -> bool:
        """Whether the run stops after this step, the same on all ranks; they all have to ask at every step."""
        return self.agreed() if self.group is None or step % self.every == 0 else False

    def agreed(self) -> bool:
        """Whether any rank was signalled; all ranks have to ask."""
        if self.group is None:
            return self.signalled
        flag = torch.tensor(int(self.signalled))
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=self.group)
        return bool(flag)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signalled = True
