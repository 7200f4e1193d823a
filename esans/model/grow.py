"""Towers for a catalogue that has grown: every old row keeps its number and its bits, new rows come after them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

# One row an item, by the name in TwoTower.
ITEM_TABLES = ("item_inputs.id_embedding.weight", "history_inputs.id_embedding.weight")
_TABLES = (*ITEM_TABLES, "user_embedding.weight", "side_embeddings.")


def grown(old: Tensor, new: Tensor) -> Tensor:
    """A copy of `new`, (n, ...), whose first rows are those of `old`, (m, ...) with m <= n; dtype and device are those of `new`."""
    found = new.clone()
    found[: len(old)] = old.to(found)
    return found


def is_table(name: str) -> bool:
    """Whether a weight of TwoTower has one row an item, a user or a code, and may grow."""
    return any(part in name for part in _TABLES)


def grow_weights(old: Mapping[str, Tensor], new: Mapping[str, Tensor], afresh: Iterable[str] = ()) -> dict[str, Tensor]:
    """Weights of larger towers from those of smaller ones.

    Args:
        old: state dict of the trained towers, with whole tables.
        new: state dict of untrained towers of the new sizes, with whole tables; its rows stand for what is new.
        afresh: names, or beginnings of names, that are taken from `new` as they are.

    Returns:
        A state dict like `new`.

    Raises:
        ValueError: a table has shrunk, or something else has another shape; the message lists all of them.
    """
    found, problems = {}, []
    for name, value in new.items():
        was = old.get(name)
        if name.startswith(tuple(afresh)):
            found[name] = value
        elif was is not None and was.shape == value.shape:
            found[name] = was.to(value)
        elif was is not None and is_table(name) and was.shape[1:] == value.shape[1:] and len(was) < len(value):
            found[name] = grown(was, value)
        else:
            problems.append(f"{name}: {'nothing' if was is None else tuple(was.shape)} there, {tuple(value.shape)} here")
    problems += [f"{name}: {tuple(value.shape)} there, nothing here" for name, value in old.items() if name not in new]
    if problems:
        raise ValueError("\n".join(problems))
    return found


def means_of_groups(rows_ND: Tensor, group_N: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean row of each group: (G, D), and how many rows it has: (G,). Rows of group -1 are left out."""
    kept = group_N >= 0
    sums_GD = torch.zeros(count, rows_ND.shape[1], dtype=torch.float64)
    sums_GD.index_add_(0, group_N[kept], rows_ND[kept].double())
    sizes_G = torch.bincount(group_N[kept], minlength=count)
    return (sums_GD / sizes_G.clamp_min(1)[:, None]).to(rows_ND.dtype), sizes_G


def place_new_items(table_ND: Tensor, known: int, group_N: Tensor) -> int:
    """Give the rows from `known` on the mean of the known rows of their group, in place; rows of groups without any stay as they are.

    Args:
        table_ND: (N, D), the rows of all items.
        known: how many of them are trained.
        group_N: (N,) int64, the primary cluster of each item, -1 for none.

    Returns:
        How many rows were placed.
    """
    mean_GD, size_G = means_of_groups(table_ND[:known], group_N[:known], int(group_N.max()) + 1 if len(group_N) else 0)
    group = group_N[known:]
    placed = (group >= 0).nonzero()[:, 0]
    placed = placed[size_G[group[placed]] > 0]
    table_ND[known + placed] = mean_GD[group[placed]]
    return len(placed)
