"""The users to evaluate, streamed in batches that do not depend on how many processes share the work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from esans.columns import HISTORY, SEEN, SPLIT, TARGETS, USER_IDX
from esans.retrieval.keys import tie_order
from esans.retrieval.ragged import Ragged

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as pads

    from esans.table import Table


@dataclass(frozen=True)
class UserBatch:
    """Some users of one split: B indices, and B rows of history (oldest first), targets, and seen items to mask."""

    users: Tensor
    history: Ragged
    targets: Ragged
    seen: Ragged

    def __len__(self) -> int:
        return len(self.users)

    def pick(self, rows: Tensor) -> UserBatch:
        """The given (n,) users of the batch."""
        return UserBatch(self.users[rows], self.history.pick(rows), self.targets.pick(rows), self.seen.pick(rows))


def user_batches(
    histories: Table, split: str, batch_size: int, rank: int = 0, world_size: int = 1, where: pads.Expression | None = None
) -> Iterator[UserBatch]:
    """Users of `split` in batches of `batch_size` (the last may be smaller); rank r gets batches r, r + world_size, ...

    `where` keeps some users, by a pyarrow condition on the columns.

    Batches are cut from the whole table, not from a rank's share: a user meets the same neighbours in every run, so that
    the encoder's floating-point results are the same too. Memory: one batch, and one row group being read.
    """
    import pyarrow.dataset as pads

    columns = [USER_IDX, HISTORY, TARGETS, SEEN]
    pending: list[pa.RecordBatch] = []
    number, waiting = 0, 0
    condition = pads.field(SPLIT) == split
    chosen = condition if where is None else condition & where
    for record in histories.dataset().to_batches(columns=columns, filter=chosen, batch_size=batch_size):
        while len(record):
            part = record.slice(0, batch_size - waiting)
            record = record.slice(len(part))
            pending.append(part)
            waiting += len(part)
            if waiting == batch_size:
                if number % world_size == rank:
                    yield _to_tensors(pending)
                pending, waiting, number = [], 0, number + 1
    if pending and number % world_size == rank:
        yield _to_tensors(pending)


def sampled_users(
    histories: Table, split: str, total: int, most: int, batch_size: int, rank: int = 0, world_size: int = 1
) -> list[UserBatch]:
    """About `most` of the `total` users of `split`, chosen by a hash of their index, in memory; all where there are no more.

    The same users whoever asks; ranks share them by whole batches, as in `user_batches`.
    """
    limit = int(min(1.0, most / max(total, 1)) * 2**32)
    chosen = []
    for batch in user_batches(histories, split, batch_size, rank, world_size):
        picked = torch.nonzero(tie_order(batch.users) < limit).flatten()
        if len(picked):
            chosen.append(batch.pick(picked))
    return chosen


def _to_tensors(records: list[pa.RecordBatch]) -> UserBatch:
    import pyarrow as pa

    whole = pa.Table.from_batches(records).combine_chunks()

    def column(name: str) -> pa.Array:
        return whole.column(name).chunk(0)

    users = torch.from_numpy(column(USER_IDX).to_numpy(zero_copy_only=False).copy())
    return UserBatch(users, *(Ragged.from_arrow(column(name)) for name in (HISTORY, TARGETS, SEEN)))
