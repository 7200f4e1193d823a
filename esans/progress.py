"""What a person sees while the chain runs: stages, steps, rows, and how far Spark has come."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from esans.redaction import redact

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

console = Console(highlight=False, soft_wrap=True)

# A log file gets a line at this interval, in seconds, where a terminal gets a moving bar.
_LOG_INTERVAL = 10.0


def say(message: str) -> None:
    """One line for people."""
    console.print(redact(message), markup=False)


def headline(message: str) -> None:
    """A line that opens a stage."""
    console.rule(redact(message), align="left", style="cyan")


class Bar:
    """A progress bar on a terminal; a line every ten seconds in a log."""

    def __init__(self, description: str, total: int | None, unit: str = "", show: bool = True) -> None:
        self.description, self.total, self.unit, self.show = description, total, unit, show
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._done = 0
        self._suffix = ""
        self._next_line = 0.0

    def __enter__(self) -> Bar:
        if console.is_terminal and self.show:
            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(self.unit),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[suffix]}"),
                console=console,
                transient=True,
            )
            self._progress.start()
            self._task = self._progress.add_task(self.description, total=self.total, suffix="")
        self._start = self._next_line = console.get_time()
        self._next_line += _LOG_INTERVAL
        return self

    def __exit__(self, *_: Any) -> None:
        if self._progress is not None:
            self._progress.stop()

    def update(self, done: int, suffix: str = "", total: int | None = None) -> None:
        """Set the number of finished units; `suffix` shows whatever matters now, such as the loss."""
        self._done, self._suffix = done, suffix or self._suffix
        self.total = total or self.total
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=self.total, suffix=self._suffix)
        elif self.show and console.get_time() >= self._next_line:
            self._next_line = console.get_time() + _LOG_INTERVAL
            self._print_line()

    def _print_line(self) -> None:
        elapsed = console.get_time() - self._start
        left = ""
        if self.total and self._done:
            left = f", {elapsed / self._done * (self.total - self._done):.0f} s left"
        total = f"/{self.total:,}" if self.total else ""
        say(f"  {self.description}: {self._done:,}{total} {self.unit} after {elapsed:.0f} s{left} {self._suffix}".rstrip())


@dataclass(frozen=True)
class Counted:
    """Units that a step is counted in where Spark's tasks say too little."""

    total: int
    done: Callable[[], int]
    unit: str


class Step:
    """A running Spark step; it may be counted in units of its own, such as items."""

    counted: Counted | None = None

    def count(self, total: int, done: Callable[[], int], unit: str) -> None:
        """Show `done()` of `total` units and their rate from here on; called again, it counts something else."""
        self.counted = Counted(total, done, unit)


@contextmanager
def spark_step(spark: SparkSession, description: str) -> Iterator[Step]:
    """Show the tasks of the Spark jobs that run inside the block, or what the block itself counts."""
    stop, step = threading.Event(), Step()

    def watch_tasks() -> None:
        tracker = spark.sparkContext.statusTracker()
        with Bar(f"{description} (Spark)", total=None, unit="tasks") as bar:
            while step.counted is None and not stop.wait(0.5):
                stages = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
                known = [stage for stage in stages if stage is not None]
                if known:
                    bar.update(sum(stage.numCompletedTasks for stage in known), total=sum(stage.numTasks for stage in known))

    def watch_units(counted: Counted) -> None:
        began = console.get_time()
        with Bar(description, total=counted.total, unit=counted.unit) as bar:
            while step.counted is counted and not stop.wait(0.5):
                done = counted.done()
                bar.update(done, suffix=f"{done / max(console.get_time() - began, 1e-9):,.1f} {counted.unit}/s")

    def watch() -> None:
        watch_tasks()
        while not stop.is_set():
            assert step.counted is not None  # watch_tasks ends at the stop or at the first count
            watch_units(step.counted)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    start = console.get_time()
    try:
        yield step
    finally:
        stop.set()
        thread.join()
    say(f"  {description}: {console.get_time() - start:.1f} s")
