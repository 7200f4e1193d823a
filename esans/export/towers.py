"""Both towers as torch.export programs: files that run wherever torch does, without this package."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esans.columns import PADDING

if TYPE_CHECKING:
    from esans.model.inputs import ItemInputs
    from esans.model.towers import TwoTower

ITEM_TOWER, USER_TOWER = "item_tower.pt2", "user_tower.pt2"
# Any number from 2 on: a traced batch of 1 would be taken for a constant.
_TRACED_BATCH = 3


class Rows(nn.Module):
    """The inputs of all items, made once: what a tower reads in place of id embeddings, content vectors and side columns.

    rows_ND: (N, D) float32.
    """

    rows_ND: Tensor

    def __init__(self, rows_ND: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows_ND", rows_ND)

    def forward(self, ids: Tensor) -> Tensor:
        """(n,) int64 -> (n, D)."""
        return self.rows_ND[ids]

    def bag(self, ids_BH: Tensor, weights_BH: Tensor, whole_ND: Tensor | None = None) -> Tensor:
        """Weighted sum of the inputs of (B, H) items: (B, D)."""
        return F.embedding_bag(ids_BH, self.rows_ND, per_sample_weights=weights_BH, mode="sum")


class ItemTower(nn.Module):
    """(n,) item_idx -> (n, D) unit vectors."""

    def __init__(self, model: TwoTower) -> None:
        super().__init__()
        self.towers = _over_rows(model, item=True)

    def forward(self, item_idx: Tensor) -> Tensor:
        """(n,) int64 -> (n, D) float32."""
        return self.towers.encode_items(item_idx)


class UserTower(nn.Module):
    """(B, H) histories -> (B, D) unit vectors."""

    def __init__(self, model: TwoTower) -> None:
        super().__init__()
        self.towers = _over_rows(model, item=False)

    def forward(self, history: Tensor) -> Tensor:
        """(B, H) int64 -> (B, D) float32."""
        return self.towers.encode_users(history)


class KnownUserTower(UserTower):
    """The same for a model with user embeddings: it takes (B,) user_idx too, -1 for a user that it does not know."""

    def forward(self, history: Tensor, user_idx: Tensor) -> Tensor:  # type: ignore[override]
        """(B, H) int64, (B,) int64 -> (B, D) float32."""
        return self.towers.encode_users(history, user_idx)


def export_towers(model: TwoTower, folder: Path) -> dict[str, Any]:
    """Write both towers, with a batch of any size, and return what their inputs and outputs mean, by file name.

    Memory: one table of item inputs a tower, on the CPU.

    Args:
        model: trained, in evaluation mode, on any device.
        folder: where; it is made.
    """
    from torch.export import Dim, export, save

    folder.mkdir(parents=True, exist_ok=True)
    batch, window = Dim("batch", min=1), model.history_length
    item_idx = torch.zeros(_TRACED_BATCH, dtype=torch.int64)
    history = torch.full((_TRACED_BATCH, window), PADDING, dtype=torch.int64)
    known = model.user_embedding is not None
    user_inputs: tuple[Tensor, ...] = (history, item_idx) if known else (history,)
    tower: UserTower = KnownUserTower(model) if known else UserTower(model)
    with torch.no_grad():
        save(export(ItemTower(model).eval(), (item_idx,), dynamic_shapes=({0: batch},)), folder / ITEM_TOWER)
        save(export(tower.eval(), user_inputs, dynamic_shapes=tuple({0: batch} for _ in user_inputs)), folder / USER_TOWER)
    vectors = f"(batch, {model.dim}) float32, unit vectors; the score of a user and an item is their inner product"
    order = f"item_idx of the user's last {window} positives, oldest first, padded at the left with {PADDING}"
    inputs = {"history": f"(batch, {window}) int64: {order}"}
    if known:
        inputs["user_idx"] = "(batch,) int64: user_idx, -1 for an unknown user"
    program = "torch.export program, for torch.export.load; batch is any size from 1"
    return {
        ITEM_TOWER: {"format": program, "inputs": {"item_idx": "(batch,) int64: item_idx of table item_vectors"}, "output": vectors},
        USER_TOWER: {"format": program, "inputs": inputs, "output": vectors},
    }


@torch.no_grad()
def _over_rows(model: TwoTower, *, item: bool) -> TwoTower:
    """The towers on the CPU with `Rows` for their inputs, and without what the other tower alone would read."""
    source: ItemInputs = model.item_inputs if item or model.history_inputs is None else model.history_inputs
    # What is replaced must not be copied first: it may be the largest part of the model.
    bare = copy.copy(model)
    bare._modules = dict(model._modules)
    bare.item_inputs = Rows(source.whole().detach().float().cpu().clone())  # type: ignore[assignment]
    bare.history_inputs = None
    if item:
        bare.user_embedding = None
    # Who serves wants no gradients.
    return copy.deepcopy(bare).cpu().eval().requires_grad_(False)
