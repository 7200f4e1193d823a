"""Rows taken file by file are those of the files put together, widened where the target is, and one row may stand for many."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from esans.train.window_rows import WindowRows


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5), seed=st.integers(0, 99), draws=st.integers(0, 30), lone=st.booleans())
@settings(max_examples=50, deadline=None)
def test_rows_of_several_files_are_those_of_the_files_put_together(sizes: list[int], seed: int, draws: int, lone: bool) -> None:
    random = np.random.default_rng(seed)
    parts = [{"a": random.integers(0, 99, size), "b": random.integers(0, 99, (size, 3)).astype(np.int32)} for size in sizes]
    if lone:
        # The last file is one row that stands for all of its rows.
        parts[-1] = {name: values[:1] for name, values in parts[-1].items()}
    whole = {
        name: np.concatenate([np.broadcast_to(part[name], (size, *part[name].shape[1:])) for part, size in zip(parts, sizes, strict=True)])
        for name in ("a", "b")
    }
    rows = random.integers(0, sum(sizes), draws)
    into = {"a": np.empty(draws, np.int64), "b": np.empty((draws, 3), np.int64)}
    window = WindowRows(parts, sizes)
    window.take(rows, into)
    for name, values in into.items():
        np.testing.assert_array_equal(values, whole[name][rows])
    assert window.shapes() == {"a": (np.dtype(np.int64), ()), "b": (np.dtype(np.int32), (3,))}
