"""Hang detection: each rank says where it is, and a thread beside it ends the process once none of them has got on for too long.

Saying so is one assignment, without a look at the device. The thread leaves a sign on a board at every turn; when its own rank has
stood in one place for too long it reads the others' signs. While another rank still gets on, this one only waits for it, and
that is no hang. Once nobody does, the first to see it writes down who holds up whom (esans.signs.diagnose), all ranks print their
stacks and end with HANG_EXIT. A rank that is stopped, or whose host is lost, leaves no signs: that is how the others know it.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple, TypeVar

import psutil

from esans.signs import Board, FolderBoard, Sign, StoreBoard, diagnose, endless

T = TypeVar("T")
# "Try again later" among the exit codes of sysexits.h: a hang is retried as a kill is.
HANG_EXIT = 75
# Names the folder of a launcher on this host for the signs of its workers.
FOLDER = "ESANS_SIGNS"
# The verdict comes somewhat before the timeouts of the collectives, which know less, and so that the job ends within the time.
_SHARE = 0.9
_TURNS = 20
_LONGEST_TURN = 5.0

_watched: Heartbeat | None = None


class Beat(NamedTuple):
    """Where this process is."""

    place: str
    step: int
    waits: bool
    since: float


class Heartbeat:
    """Where one rank is, for the other ranks and the launcher.

    Args:
        rank: of this process.
        world_size: how many processes there are.
        hang_seconds: how long nobody may get on.
        board: where signs are left; without one nobody but this process looks.
        say: takes the verdict.
        end: ends the process with an exit code, at once.
    """

    def __init__(
        self,
        rank: int = 0,
        world_size: int = 1,
        hang_seconds: float = float("inf"),
        board: Board | None = None,
        say: Callable[[str], None] | None = None,
        end: Callable[[int], None] = os._exit,
    ) -> None:
        self.rank, self.world_size, self.board, self.say, self.end = rank, world_size, board, say or _to_stderr, end
        self.limit = hang_seconds * _SHARE
        self.turn = min(self.limit / _TURNS, _LONGEST_TURN)
        self._beat = Beat("start", 0, False, time.monotonic())
        self._stop = threading.Event()
        self._number = 0
        self._idle = 0.0
        self._numbers: dict[int, int] = {}
        self._silent: dict[int, float] = {}

    def at(self, place: str, step: int, waits: bool = False) -> None:
        """This process begins something else.

        Args:
            place: what, as messages call it.
            step: in which step, counted from 1; 0 before the first.
            waits: whether it can only end once the other ranks, or the device, have done their part.
        """
        self._beat = Beat(place, step, waits, time.monotonic())

    @property
    def where(self) -> Beat:
        """What `at` said last."""
        return self._beat

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Let the thread look after this process inside the block."""
        global _watched  # noqa: PLW0603
        _watched = self
        # A rank that is stopped in its first moments has been there: only one that never started has left no sign.
        self._leave_sign()
        thread = threading.Thread(target=self._watch, daemon=True, name="heartbeat")
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(self.turn)
            self._leave_sign(left=True)

    def _watch(self) -> None:
        parent, last, seen = os.getppid(), time.monotonic(), self._beat
        while not self._stop.wait(self.turn):
            now, beat = time.monotonic(), self._beat
            # A process that was stopped and goes on has not waited: time counts only while this thread runs.
            elapsed = min(now - last, 2 * self.turn)
            self._idle = min(now - beat.since, elapsed) if beat is not seen else self._idle + elapsed
            last, seen = now, beat
            if os.getppid() != parent:
                # Nobody would learn of what an orphan does, and the next start of the job would write to the same files.
                self.end(HANG_EXIT)
            self._leave_sign()
            verdict = self._verdict(elapsed)
            if verdict is not None:
                self.end(HANG_EXIT)
                return

    def _leave_sign(self, left: bool = False, over: bool = False) -> None:
        beat, self._number = self._beat, self._number + 1
        if self.board is not None:
            sign = Sign(self.rank, os.getpid(), self._number, beat.place, beat.step, beat.waits, round(self._idle, 3), left, over)
            self._ask(lambda board: board.put(sign))

    def _verdict(self, elapsed: float) -> str | None:
        """What is declared on a hang of all ranks, by this one or another; None while there is none."""
        declared = self._ask(lambda board: board.verdict())
        if declared is None and self._idle >= self.limit / 2:
            # From here on, so that healthy ranks do not read each other's signs.
            signs = self._ask(lambda board: board.signs()) or [self._own()]
            self._listen(signs, elapsed)
            if self._idle >= self.limit and all(self._stands_still(sign) for sign in signs):
                silent = {rank: seconds for rank, seconds in self._silent.items() if seconds >= self.limit / 4}
                mine = diagnose(signs, silent, self.world_size)
                declared = self._ask(lambda board: board.declare(mine)) or mine
                if declared == mine:
                    self.say(mine)
        if declared is not None:
            faulthandler.dump_traceback(sys.__stderr__ or 2)
        return declared

    def _listen(self, signs: list[Sign], elapsed: float) -> None:
        for sign in signs:
            fresh = self._numbers.get(sign.rank) != sign.number
            self._numbers[sign.rank] = sign.number
            self._silent[sign.rank] = 0.0 if fresh else self._silent.get(sign.rank, 0.0) + elapsed

    def _stands_still(self, sign: Sign) -> bool:
        # Signs are as old as a turn, ranks stop within moments of each other, and silence is listened for since half the time.
        silent = self._silent.get(sign.rank, 0.0)
        return sign.left or silent >= self.limit / 4 or sign.seconds + silent >= self.limit - 3 * self.turn

    def _own(self) -> Sign:
        beat = self._beat
        return Sign(self.rank, os.getpid(), self._number, beat.place, beat.step, beat.waits, self._idle)

    def _ask(self, question: Callable[[Board], T]) -> T | None:
        """An answer of the board; None without one, or where it does not answer: then this process is alone in judging."""
        if self.board is None:
            return None
        try:
            return question(self.board)
        except Exception:
            return None


def board_of(rank: int, world_size: int, restarts: int) -> Board | None:
    """Where the ranks of this start leave their signs: the launcher's folder, else the rendezvous, else, alone, nowhere."""
    if FOLDER in os.environ:
        return FolderBoard(Path(os.environ[FOLDER]) / str(restarts))
    if world_size == 1:
        return None
    import torch.distributed as dist

    timeout = timedelta(seconds=30)
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=timeout)
    return StoreBoard(dist.PrefixStore(f"esans/signs/{restarts}", store), world_size, timeout)


def last_step() -> int:
    """The step that this process has begun last; 0 where nothing looks after it."""
    return 0 if _watched is None else _watched.where.step


def work_over() -> None:
    """This process has nothing left to do but to wait until its agent lets it end; for a launcher on this host."""
    if _watched is not None and FOLDER in os.environ:
        _watched._leave_sign(left=True, over=True)


def _to_stderr(verdict: str) -> None:
    print(f"hang: {verdict}", file=sys.__stderr__, flush=True)


class Silence:
    """What a launcher on the same host hears of its workers, and what it does about those that can't end themselves.

    Args:
        folder: of the signs; each start has one of its own inside.
        hang_seconds: how long all workers of a start may be silent, or live on once all have left the work.
        say: takes the verdict where it is found here.
    """

    def __init__(self, folder: Path, hang_seconds: float, say: Callable[[str], None] | None = None) -> None:
        self.folder, self.limit, self.say = folder, hang_seconds * _SHARE, say or _to_stderr
        self._start, self._last = -1, time.monotonic()
        self._heard: dict[int, tuple[int, float]] = {}
        self._lingered = 0.0

    def verdict(self) -> str | None:
        """What was declared on the latest start: by its ranks, or here where none of them gives a sign any more or ends its process."""
        board = self._board()
        if board is None:
            return None
        now = time.monotonic()
        # As in the ranks: a host that was suspended as a whole has not waited.
        elapsed, self._last = min(now - self._last, 2 * _LONGEST_TURN), now
        everyone = board.signs()
        signs = [sign for sign in everyone if not sign.left]
        for sign in signs:
            number, seconds = self._heard.get(sign.rank, (0, 0.0))
            self._heard[sign.rank] = (sign.number, seconds + elapsed if sign.number == number else 0.0)
        silent = {sign.rank: self._heard[sign.rank][1] for sign in signs}
        alive = [sign for sign in signs if _lives(sign.pid)]
        if alive and min(silent.values()) >= self.limit:
            return self._declare(board, diagnose(signs, silent, len(signs)))
        # Who has left may have to wait for those at work, to close the group with them; these are looked after above.
        lingering = [sign for sign in everyone if sign.left and _lives(sign.pid)] if not alive else []
        self._lingered = self._lingered + elapsed if lingering else 0.0
        if lingering and self._lingered >= self.limit:
            # The agent holds those back that have come to it until all have.
            return self._declare(board, endless([sign for sign in lingering if not sign.over] or lingering, self._lingered))
        return board.verdict()

    def _declare(self, board: FolderBoard, mine: str) -> str:
        declared = board.verdict()
        if declared is None:
            declared = board.declare(mine)
            if declared == mine:
                self.say(mine)
        return declared

    def kill(self, agent: int) -> None:
        """End the workers of the latest start that are still there, outright."""
        board = self._board()
        pids = {sign.pid for sign in board.signs()} if board is not None else set()
        # Only what descends from the agent: the number of a process that is gone may be another's by now.
        for child in psutil.Process(agent).children(recursive=True):
            if child.pid in pids:
                with suppress(psutil.NoSuchProcess):
                    child.kill()

    def _board(self) -> FolderBoard | None:
        start = max((int(path.name) for path in self.folder.iterdir()), default=-1)
        if start != self._start:
            self._start, self._heard, self._lingered = start, {}, 0.0
        return FolderBoard(self.folder / str(start)) if start >= 0 else None


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
