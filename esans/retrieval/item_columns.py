"""Slices by columns of the prepare bundle's items: a category by its largest values, a number by quantiles."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from esans.columns import AVAILABLE, ITEM_IDX, SIDE_PREFIX, TITLE
from esans.errors import ConfigError
from esans.retrieval.slices import ALL, COLD, HISTORY_LENGTH, POPULARITY, ItemCut

if TYPE_CHECKING:
    import pyarrow as pa

    from esans.bundle import Bundle
    from esans.table import Table

OTHER, MISSING = "other", "missing"
_QUANTILES = 4


def check_names(names: Sequence[str], known: Collection[str], key: str) -> None:
    """Refuse columns to slice by that are not there, stand twice or are named like a slice of every evaluation.

    Raises:
        ConfigError: naming `key`, the column, and what there is.
    """
    for place, name in enumerate(names):
        if name in (ALL, POPULARITY, HISTORY_LENGTH, COLD):
            raise ConfigError(f"{key} names {name!r}, which every evaluation has already. Leave it out.")
        if name in names[:place]:
            raise ConfigError(f"{key} names {name!r} twice.")
        if name not in known:
            there = ", ".join(sorted(known)) or "none"
            raise ConfigError(
                f"{key} names {name!r}, and the items have no such column to slice by. There are: {there}.\n"
                "Map the column under prepare.items.side, as a category or a number."
            )


def configured_columns(items: Any) -> list[str]:
    """Columns to slice by that a bundle of these `prepare.items` will have."""
    return [*items.side, *([TITLE] if items.columns.title is not None else []), AVAILABLE]


def read_cuts(prepare: Bundle, names: Sequence[str], largest: int, key: str = "evaluate.slices") -> list[ItemCut]:
    """The cuts of a prepare bundle's items by the named columns; memory: one column of the catalogue at a time.

    A category has a slice for each of its `largest` values by number of items, one for the rest, and one for items without a value.
    A number has four slices with about equal numbers of items; equal numbers share one.

    Raises:
        ConfigError: there is no such column with one value an item.
    """
    items, size = prepare.table("items"), int(prepare.facts["num_items"])
    columns = _columns(items)
    check_names(names, columns, key)
    return [_cut(name, items.arrow([ITEM_IDX, columns[name]]), size, largest) for name in names]


def _columns(items: Table) -> Mapping[str, str]:
    # name to slice by -> column of the table; only what has one value an item
    import pyarrow.types as types

    def single(kind: pa.DataType) -> bool:
        return types.is_string(kind) or types.is_large_string(kind) or types.is_boolean(kind) or _is_number(kind)

    schema = items.dataset().schema
    return {
        field.name.removeprefix(SIDE_PREFIX): field.name
        for field in schema
        if single(field.type) and (field.name.startswith(SIDE_PREFIX) or field.name in (TITLE, AVAILABLE))
    }


def _is_number(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    return types.is_integer(kind) or types.is_floating(kind)


def _cut(name: str, table: pa.Table, size: int, largest: int) -> ItemCut:
    import pyarrow as pa

    item_idx, column = table.column(0).to_numpy(), table.column(1).combine_chunks()
    if _is_number(column.type):
        labels, place = _by_quantiles(column.to_numpy(zero_copy_only=False).astype(np.float64))
    else:
        labels, place = _by_values(column.cast(pa.string()), largest)
    place_N = np.full(size, len(labels) - 1, dtype=np.int16)  # an item that the table lacks has no value
    place_N[item_idx] = place
    return ItemCut(name, tuple(labels), torch.from_numpy(place_N))


def _by_values(column: pa.Array, largest: int) -> tuple[list[str], np.ndarray]:
    import pyarrow as pa
    import pyarrow.compute as pc

    encoded = column.dictionary_encode()
    codes = encoded.indices.fill_null(len(encoded.dictionary)).to_numpy(zero_copy_only=False)
    counts = np.bincount(codes, minlength=len(encoded.dictionary) + 1)[: len(encoded.dictionary)]
    values = encoded.dictionary
    # By items, then by the value itself: the slices must not depend on the order of the rows.
    rank_of = np.empty(len(values), dtype=np.int64)
    rank_of[pc.sort_indices(values).to_numpy()] = np.arange(len(values))
    chosen = np.lexsort((rank_of, -counts))[:largest]
    place = np.full(len(values) + 1, len(chosen), dtype=np.int64)
    place[chosen] = np.arange(len(chosen))
    place[-1] = len(chosen) + 1
    return [*values.take(pa.array(chosen)).to_pylist(), OTHER, MISSING], place[codes]


def _by_quantiles(values: np.ndarray) -> tuple[list[str], np.ndarray]:
    there = ~np.isnan(values)
    known = np.sort(values[there])
    if not len(known):
        return [MISSING], np.zeros(len(values), dtype=np.int64)
    edges = np.unique(known[[place * len(known) // _QUANTILES for place in range(_QUANTILES)]])
    place = np.where(there, np.searchsorted(edges, values, side="right") - 1, len(edges))
    tops = [known[np.searchsorted(known, edge) - 1] for edge in edges[1:]] + [known[-1]]
    labels = [f"{low:g} to {high:g}" if high > low else f"{low:g}" for low, high in zip(edges, tops, strict=True)]
    return [*labels, MISSING], place
