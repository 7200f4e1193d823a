"""Batches of one rank: the plan's rows, read ahead by a thread, as tensors on the training device."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, Literal

import numpy as np
import torch

from esans import columns as c
from esans.errors import BundleError
from esans.negatives.base import Batch
from esans.petastorm_reader import Columns, read_files
from esans.progress import say
from esans.table import Table
from esans.train.plan import EpochPlan, Interval, Window, remaining, split, steps_per_epoch
from esans.train.prefetch import Ahead, Collator, Ready
from esans.train.window_rows import WindowRows

# One decodes no faster than one core, and a step that waits for data leaves its own idle.
_READERS = 2
_COLUMNS = (c.USER_IDX, c.HISTORY, c.TARGET, c.WEIGHT, c.KNOWN)


class Loader:
    """Yields the batches of one rank in one epoch, and resumes after any of them on any world size.

    A corrupt or vanished shard raises, or is skipped: then examples of weight 0 stand for its rows. The plan does not change, so
    ranks need not agree on anything to keep equal steps, even where only one of them sees the fault.

    Attributes:
        wait_seconds: how long the trainer has waited for batches.
        skipped_rows: rows skipped among those that this rank has yielded, over all epochs; the first rank's hold those of earlier starts
            too, so that the sum over ranks is what the run missed.
        kept: files that were read, by URI, with `keep`.
    """

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
        on_bad_shard: Literal["error", "skip"] = "error",
    ) -> None:
        self.table, self.rank_batch, self.device = table, rank_batch, device
        self.rank, self.world_size = rank, world_size
        self.window_files, self.prefetch, self.seed = window_files, prefetch, seed
        self.wait_seconds, self.skipped_rows = 0.0, 0
        self.extra = tuple(extra)
        self.columns = (*_COLUMNS, *self.extra)
        self.rows_per_epoch, self.num_items = rows_per_epoch, num_items
        self.skip_bad = on_bad_shard == "skip"
        self.kept: dict[str, Columns] | None = {} if keep else None
        self._told: set[str] = set()
        self._epoch = self._yielded = 0
        self._resumed: tuple[int, list[Interval]] | None = None
        self._prepared: tuple[int, Ahead[tuple[Ready, int]], Collator] | None = None

    def plan(self, epoch: int) -> EpochPlan:
        """The stream of an epoch, the same on every rank."""
        return EpochPlan([file.rows for file in self.table.files], self.window_files, self.seed, epoch)

    def steps(self, epoch: int) -> int:
        """Steps that `epoch(epoch)` takes, the same on every rank: of a resumed epoch those that were left."""
        return steps_per_epoch(self._intervals(epoch), self.rank_batch, self.world_size)

    def state_dict(self, skipped_rows: int | None = None) -> dict[str, Any]:
        """Where the epoch begun last stands, as plain values; the same on every rank that has yielded as many batches.

        Batches count once they are yielded, not when they are read ahead: taken after a step, the state leaves out that step's rows.

        Args:
            skipped_rows: the sum of `skipped_rows` over ranks, which a loader alone can't know; None where this is the only rank.

        Returns:
            `epoch`; `left`: [start, stop) stretches of the epoch's stream of rows that no rank has yielded, over all ranks, in order;
            `stream`: what the stream is made from (`seed`, `window_files`, `files`, `rows`), so that another one is refused;
            `skipped_rows`, over all ranks.
        """
        left = remaining(self._intervals(self._epoch), self._yielded, self.rank_batch, self.world_size)
        skipped = self.skipped_rows if skipped_rows is None else skipped_rows
        return {"epoch": self._epoch, "left": [list(interval) for interval in left], "stream": self._stream(), "skipped_rows": skipped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let `epoch(state["epoch"])` yield just what was left then, shared by this world size; other epochs are whole.

        Raises:
            BundleError: the state is of another stream: other examples, seed or window.
        """
        saved = state["stream"]
        differing = [f"{name} {saved.get(name)} -> {value}" for name, value in self._stream().items() if saved.get(name) != value]
        if differing:
            raise BundleError(f"{self.table.uri}: the saved position is of another stream of examples ({', '.join(differing)})")
        self.close()
        self._epoch, self._yielded = int(state["epoch"]), 0
        # Of all ranks, so one of them goes on with it; states of earlier versions lack it.
        self.skipped_rows = int(state.get("skipped_rows", 0)) if self.rank == 0 else 0
        self._resumed = (self._epoch, [(int(start), int(stop)) for start, stop in state["left"]])

    def _stream(self) -> dict[str, int]:
        return {"seed": self.seed, "window_files": self.window_files, "files": len(self.table.files), "rows": self.table.rows}

    def _intervals(self, epoch: int) -> list[Interval]:
        if self._resumed is not None and self._resumed[0] == epoch:
            return self._resumed[1]
        # The stream is in random order, so its beginning is a sample.
        return [(0, self.table.rows if self.rows_per_epoch is None else min(self.table.rows, self.rows_per_epoch))]

    def prepare(self, epoch: int) -> None:
        """Begin to read an epoch that `epoch` is called for next, so that its first batches wait for nobody; `close` gives that up."""
        self.close()
        collator = Collator(self.rank_batch, self.device, self._batch)
        self._prepared = epoch, Ahead(lambda: self._batches(epoch, collator), self.prefetch), collator

    def close(self) -> None:
        """Stop reading what was prepared and not used."""
        if self._prepared is not None:
            self._prepared[1].close()
        self._prepared = None

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Batches of an epoch, or of what is left of it after `load_state_dict`."""
        self._epoch, self._yielded = epoch, 0
        if self._prepared is None or self._prepared[0] != epoch:
            self.prepare(epoch)
        assert self._prepared is not None
        _, batches, collator = self._prepared
        self._prepared = None
        with closing(batches):
            while True:
                started = time.perf_counter()
                item = next(batches, None)
                self.wait_seconds += time.perf_counter() - started
                if item is None:
                    return
                ready, skipped = item
                self._yielded += 1
                self.skipped_rows += skipped
                yield collator.receive(ready)

    def _batches(self, epoch: int, collator: Collator) -> Iterator[tuple[Ready, int]]:
        """Batches, and how many rows of each were skipped."""
        plan, intervals = self.plan(epoch), self._intervals(epoch)
        part, steps = split(intervals, self.rank, self.world_size), self.steps(epoch)
        made, skipped = 0, np.zeros(0, bool)
        for window, rows in self._rows(plan, part):
            skipped = np.concatenate([skipped, window.stand_ins(rows)])
            for batch in collator.add(window, rows):
                made += 1
                count, skipped = int(skipped[: self.rank_batch].sum()), skipped[self.rank_batch :]
                yield batch, count
        if steps and not part:
            # This rank has no example of its own: another's, of weight 0, fills its steps.
            first = intervals[0][0]
            collator.pad_with(*next(self._rows(plan, [(first, first + 1)])))
        # Every rank takes `steps` steps: what is short is filled with examples that weigh nothing.
        for _ in range(steps - made):
            yield collator.padded(), int(skipped.sum())
            skipped = skipped[:0]

    def _rows(self, plan: EpochPlan, part: Sequence[Interval]) -> Iterator[tuple[WindowRows, np.ndarray]]:
        """Each window that `part` meets, and which of its rows come, in stream order."""
        wanted = [(window, stretches) for window in plan.windows if (stretches := _overlap(window, part))]
        files = self._files([place for window, _ in wanted for place in self._filled(window)])
        for window, stretches in wanted:
            read = [next(files) for _ in self._filled(window)]
            order = window.permutation()
            chosen = np.concatenate([order[start - window.start : stop - window.start] for start, stop in stretches])
            yield self._together(window, read), chosen

    def _filled(self, window: Window) -> list[int]:
        # An empty file has no row group to wait for.
        return [place for place in window.files if self.table.files[place].rows]

    def _together(self, window: Window, read: Sequence[Columns | None]) -> WindowRows:
        """The rows of a window's files; an example of weight 0 stands for each row of a file that could not be read."""
        sizes = [self.table.files[place].rows for place in self._filled(window)]
        good = [columns for columns in read if columns is not None]
        parts = [_weightless(good[0] if good else self._readable()) if columns is None else columns for columns in read]
        return WindowRows(parts, sizes, [place for place, columns in enumerate(read) if columns is None])

    def _readable(self) -> Columns:
        """The columns of any file that can be read."""
        for file, uri in zip(self.table.files, self.table.file_uris, strict=True):
            found = next(read_files([uri], self.columns, skip_bad=True)) if file.rows else None
            if found is not None:
                return found
        raise BundleError(f"{self.table.uri}: none of {len(self.table.files)} shards can be read")

    def _files(self, places: Sequence[int]) -> Iterator[Columns | None]:
        """Files in order; those of an earlier epoch come from memory where they are kept."""
        uris = self.table.file_uris
        known = self.kept if self.kept is not None else {}
        read = read_files([uris[place] for place in places if uris[place] not in known], self.columns, self.skip_bad, _READERS)
        # Closed at once on an error too, whose traceback would keep it and its threads alive.
        with closing(read):
            for place in places:
                uri = uris[place]
                columns = known[uri] if uri in known else self._checked(next(read), uri, self.table.files[place].rows)
                if self.kept is not None and columns is not None:
                    self.kept[uri] = columns
                yield columns

    def _checked(self, columns: Columns | None, uri: str, rows: int) -> Columns | None:
        """The columns, or None for a file to skip, which is told once."""
        found = 0 if columns is None else len(columns[c.TARGET])
        if columns is not None and found == rows:
            return columns
        why = "it cannot be read" if columns is None else f"it has {found:,} rows where its bundle says {rows:,}"
        if not self.skip_bad:
            raise BundleError(f"cannot read shard {uri}, row group 0: {why}")
        if uri not in self._told:
            self._told.add(uri)
            say(f"  rank {self.rank}: skipped shard {uri}, row group 0: {why}; {rows:,} rows")
        return None

    def _batch(self, tensors: Mapping[str, torch.Tensor]) -> Batch:
        ids = {name: tensor.to(torch.int64) for name, tensor in tensors.items() if name != c.WEIGHT}
        return Batch(
            user_idx=ids[c.USER_IDX],
            history=ids[c.HISTORY],
            target=ids[c.TARGET],
            weight=tensors[c.WEIGHT].to(torch.float32),
            known=ids[c.KNOWN],
            num_items=self.num_items,
            extra={name: ids[name] for name in self.extra},
        )


def _overlap(window: Window, part: Sequence[Interval]) -> list[Interval]:
    stop = window.start + window.rows
    cut = [(max(low, window.start), min(high, stop)) for low, high in part]
    return [(low, high) for low, high in cut if low < high]


def _weightless(template: Columns) -> Columns:
    """One example with legal ids and weight 0."""
    return {name: values[:1] for name, values in template.items()} | {c.WEIGHT: np.zeros(1, template[c.WEIGHT].dtype)}
