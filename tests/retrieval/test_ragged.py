"""Ragged rows against Python lists."""

from __future__ import annotations

import pyarrow as pa
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esans.retrieval.ragged import Ragged

lists = st.lists(st.lists(st.integers(0, 99), max_size=5), max_size=8)


def as_lists(ragged: Ragged) -> list[list[int]]:
    return [ragged.slice(row, row + 1).values.tolist() for row in range(len(ragged))]


@settings(deadline=None)
@given(lists)
def test_rows_come_back_as_they_went_in(rows):
    assert as_lists(Ragged.from_lists(rows)) == rows
    assert as_lists(Ragged.from_arrow(pa.array(rows, pa.list_(pa.int64())))) == rows


@settings(deadline=None)
@given(lists, st.integers(1, 7), st.booleans())
def test_padding_keeps_the_last_values_on_the_chosen_side(rows, width, left):
    padded = Ragged.from_lists(rows).padded(-1, left=left, width=width).tolist()
    for row, result in zip(rows, padded, strict=True):
        kept = row[-width:]
        fill = [-1] * (width - len(kept))
        assert result == (fill + kept if left else kept + fill)


@settings(deadline=None)
@given(lists)
def test_keep_filters_values_and_leaves_rows(rows):
    ragged = Ragged.from_lists(rows)
    assert as_lists(ragged.keep(ragged.values % 2 == 0)) == [[v for v in row if v % 2 == 0] for row in rows]


def test_null_rows_and_slices_of_arrow_columns_are_read_right():
    column = pa.array([[9], [1, 2], None, [3]], pa.list_(pa.int64())).slice(1)
    assert as_lists(Ragged.from_arrow(column)) == [[1, 2], [], [3]]
    assert torch.equal(Ragged.from_arrow(column).rows, torch.tensor([0, 0, 2]))
