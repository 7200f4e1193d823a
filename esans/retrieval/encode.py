"""Vectors of a trained model, in chunks: the whole catalogue, and users by their histories."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from esans.columns import PADDING
from esans.errors import ConfigError
from esans.retrieval.users import UserBatch

ITEM_BATCH = 65_536


class Towers(Protocol):
    """What a trained model offers: `esans.model.towers.TwoTower`, or a stand-in for it."""

    @property
    def dim(self) -> int:
        """Dimensions of the vectors."""

    @property
    def num_items(self) -> int:
        """Items of the catalogue."""

    @property
    def num_users(self) -> int:
        """Users that were known in training."""

    @property
    def history_length(self) -> int:
        """Places of the history window."""

    def encode_items(self, item_idx: Tensor) -> Tensor:
        """(n,) int64 -> (n, dim) unit vectors."""

    def encode_users(self, history: Tensor, user_idx: Tensor | None = None) -> Tensor:
        """(B, history_length) int64 padded at the left, (B,) int64 -> (B, dim) unit vectors."""


def pick_device(wanted: str, key: str) -> str:
    """`auto` as cuda where there is a GPU, else cpu. Raises ConfigError naming `key` when cuda is asked for and absent."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"{key} = 'cuda': torch sees no GPU here. Set {key}=auto or {key}=cpu.")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread inside the block: the last bits of a vector may depend on the threads, hence on how many processes share a host."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()
def encode_catalogue(model: Towers, device: torch.device | str = "cpu", chunk: int = ITEM_BATCH, size: int | None = None) -> Tensor:
    """(num_items, dim) float32 unit vectors of all items, on `device`; with `size`, zero vectors follow up to so many rows."""
    vectors = torch.zeros((model.num_items if size is None else size, model.dim), device=device)
    for start in range(0, model.num_items, chunk):
        places = torch.arange(start, min(start + chunk, model.num_items), device=device)
        vectors[start : start + len(places)] = model.encode_items(places).float()
    return vectors


@torch.inference_mode()
def encode_users(model: Towers, batch: UserBatch, device: torch.device | str = "cpu") -> Tensor:
    """(B, dim) float32 unit vectors of users by the last `history_length` items of their histories.

    Items and users that came after the model was trained are left out of histories, and unknown users.
    """
    history = batch.history.keep(batch.history.values < model.num_items).padded(PADDING, left=True, width=model.history_length)
    users = torch.where(batch.users < model.num_users, batch.users, -1)
    return model.encode_users(history.to(device), users.to(device)).float()
