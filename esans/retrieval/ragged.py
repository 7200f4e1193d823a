"""Rows of different lengths as one flat tensor: the targets of a user, the items a user has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Ragged:
    """Row i holds `values[offsets[i] : offsets[i + 1]]`.

    offsets: (rows + 1,) int64, starting at 0 and never falling; values: (total,) int64.
    """

    offsets: Tensor
    values: Tensor

    @classmethod
    def from_lists(cls, rows: Sequence[Sequence[int]]) -> Ragged:
        """Rows given as Python lists."""
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        flat = torch.tensor([value for row in rows for value in row], dtype=torch.int64)
        return cls.from_lengths(lengths, flat)

    @classmethod
    def from_lengths(cls, lengths: Tensor, values: Tensor) -> Ragged:
        """Rows given as their (rows,) lengths and the flat values."""
        offsets = torch.zeros(len(lengths) + 1, dtype=torch.int64, device=lengths.device)
        torch.cumsum(lengths, 0, out=offsets[1:])
        return cls(offsets, values)

    @classmethod
    def from_arrow(cls, column: pa.Array) -> Ragged:
        """A list column without null values; a null row counts as an empty one."""
        import numpy as np
        import pyarrow.compute as pc

        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        flat = column.flatten().to_numpy(zero_copy_only=False)
        return cls.from_lengths(torch.from_numpy(lengths.astype(np.int64)), torch.from_numpy(flat.astype(np.int64)))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor:
        """(rows,) int64."""
        return self.offsets.diff()

    @property
    def rows(self) -> Tensor:
        """(total,) int64: the row of every value."""
        every = torch.arange(len(self), device=self.offsets.device)
        return torch.repeat_interleave(every, self.lengths)

    def slice(self, start: int, stop: int) -> Ragged:
        """Rows [start, stop)."""
        part = self.offsets[start : stop + 1]
        return Ragged(part - part[0], self.values[int(part[0]) : int(part[-1])])

    def pick(self, rows: Tensor) -> Ragged:
        """The given (n,) rows, in that order."""
        lengths = self.lengths[rows]
        result = Ragged.from_lengths(lengths, self.values[:0])
        start = torch.repeat_interleave(self.offsets[rows] - result.offsets[:-1], lengths)
        return Ragged(result.offsets, self.values[start + torch.arange(int(result.offsets[-1]), device=start.device)])

    def keep(self, mask: Tensor) -> Ragged:
        """The values where `mask` (total,) bool is true; rows stay, and may become empty."""
        counts = torch.zeros(len(self), dtype=torch.int64, device=self.offsets.device)
        counts.index_add_(0, self.rows, mask.long())
        return Ragged.from_lengths(counts, self.values[mask])

    def padded(self, fill: int, *, left: bool = False, width: int | None = None) -> Tensor:
        """(rows, width) int64, the width of the longest row by default; too long rows keep their last values."""
        lengths = self.lengths
        size = width if width is not None else (int(lengths.max()) if len(self) else 0)
        result = torch.full((len(self), size), fill, dtype=torch.int64, device=self.values.device)
        rows = self.rows
        from_end = self.offsets[rows + 1] - torch.arange(len(self.values), device=self.values.device)  # 1 for the last value
        column = size - from_end if left else lengths[rows].clamp_max(size) - from_end
        fits = column >= 0
        result[rows[fits], column[fits]] = self.values[fits]
        return result

    def to(self, device: torch.device | str) -> Ragged:
        """The same rows on another device."""
        return Ragged(self.offsets.to(device), self.values.to(device))
