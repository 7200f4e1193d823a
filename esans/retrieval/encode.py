"""Vectors of a trained model, in chunks: the whole catalogue, and users by their histories."""

from __future__ import annotations

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


@torch.inference_mode()
def encode_catalogue(model: Towers, device: torch.device | str = "cpu", chunk: int = ITEM_BATCH) -> Tensor:
    """(num_items, dim) float32 unit vectors of all items, on `device`."""
    vectors = torch.empty((model.num_items, model.dim), device=device)
    for start in range(0, model.num_items, chunk):
        places = torch.arange(start, min(start + chunk, model.num_items), device=device)
        vectors[start : start + len(places)] = model.encode_items(places).float()
    return vectors


@torch.inference_mode()
def encode_users(model: Towers, batch: UserBatch, device: torch.device | str = "cpu") -> Tensor:
    """(B, dim) float32 unit vectors of users by the last `history_length` items of their histories."""
    history = batch.history.padded(PADDING, left=True, width=model.history_length)
    return model.encode_users(history.to(device), batch.users.to(device)).float()
