"""Two towers: an item tower over id, content and side columns; a user tower over the history window."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esans.model.config import ModelConfig
from esans.model.inputs import ItemInputs, Table

# Tables that grow with items and users, by their names in TwoTower.
BIG_TABLES = ("item_inputs.id_embedding", "history_inputs.id_embedding", "user_embedding")


class Residual(nn.Module):
    """x + MLP(x), or x where the hidden width is 0."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim)) if hidden else None

    def reset_parameters(self) -> None:
        """Draw the weights anew from torch's generator, in the order in which building draws them."""
        for layer in self.layers or ():
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return x if self.layers is None else x + self.layers(x)


class TwoTower(nn.Module):
    """User and item encoders into one space of unit vectors.

    Shape letters: B users, H history places, n items, D dimensions.
    """

    def __init__(
        self, config: ModelConfig, num_items: int, num_users: int, history_length: int, content_dim: int, side_sizes: Sequence[int]
    ) -> None:
        super().__init__()
        self.config = config
        self._num_users = num_users
        self.sizes = {
            "num_items": num_items,
            "num_users": num_users,
            "history_length": history_length,
            "content_dim": content_dim if config.content else 0,
            "side_sizes": list(side_sizes) if config.side else [],
        }
        inputs = (num_items, config.dim, self.sizes["content_dim"], self.sizes["side_sizes"])
        self.item_inputs = ItemInputs(*inputs)  # type: ignore[arg-type]
        self.history_inputs = None if config.share_item_input else ItemInputs(*inputs)  # type: ignore[arg-type]
        self.item_layers = Residual(config.dim, config.hidden)
        self.user_layers = Residual(config.dim, config.hidden)
        # One learned logit per place, newest last: how much recency counts.
        self.place_logits_H = nn.Parameter(torch.zeros(history_length))
        self.empty_history_D = nn.Parameter(torch.empty(config.dim))
        self._draw_empty_history()
        self.user_embedding = Table(num_users, config.dim) if config.user_id else None
        if self.user_embedding is not None:
            self.user_embedding.draw()

    def reset_parameters(self) -> None:
        """Draw all weights anew from torch's generator, in the order in which building draws them: a seed gives the same towers."""
        for part in (self.item_inputs, self.history_inputs, self.item_layers, self.user_layers):
            if part is not None:
                part.reset_parameters()
        nn.init.zeros_(self.place_logits_H)
        self._draw_empty_history()
        if self.user_embedding is not None:
            self.user_embedding.reset_parameters()
            self.user_embedding.draw()

    @torch.no_grad()
    def _draw_empty_history(self) -> None:
        if not self.empty_history_D.is_meta:
            self.empty_history_D.copy_(torch.randn_like(self.empty_history_D) * 0.3 / self.dim**0.5)

    @property
    def dim(self) -> int:
        """Dimensions of the vectors."""
        return self.config.dim

    @property
    def num_items(self) -> int:
        """Items of the catalogue."""
        return self.item_inputs.id_embedding.num_embeddings

    @property
    def num_users(self) -> int:
        """Users that were known in training; a later one is like an unknown one."""
        return self._num_users

    @property
    def history_length(self) -> int:
        """Places of the history window."""
        return len(self.place_logits_H)

    @property
    def all_inputs(self) -> list[ItemInputs]:
        """The item tower's inputs, and the histories' where they have their own."""
        return [inputs for inputs in (self.item_inputs, self.history_inputs) if inputs is not None]

    def set_content(self, content_NF: Tensor | None, side_NS: Tensor | None) -> None:
        """Put the frozen content vectors (N, F) float32 and side codes (N, S) int64 in place, where the weights are."""
        device = self.place_logits_H.device
        content = content_NF.to(device) if content_NF is not None and self.config.content else None
        side = side_NS.to(device) if side_NS is not None and self.config.side else None
        for inputs in self.all_inputs:
            inputs.content_NF = inputs.content_NF if content is None else content
            inputs.side_NS = inputs.side_NS if side is None else side

    def shared_inputs(self, places: int) -> Tensor | None:
        """Inputs of all items (N, D), where both towers read them and that many history places make it the faster way; else None."""
        faster = self.history_inputs is None and self.item_inputs.whole_pays(places, self.place_logits_H.device)
        return self.item_inputs.whole() if faster else None

    def encode_items(self, item_idx: Tensor) -> Tensor:
        """(n,) int64 -> (n, D) unit vectors."""
        return self.encode_inputs(self.item_inputs(item_idx))

    def encode_inputs(self, inputs_nD: Tensor) -> Tensor:
        """Item inputs (n, D) -> (n, D) unit vectors."""
        # Under autocast the layers may give bfloat16; unit vectors are float32 in any case.
        return F.normalize(self.item_layers(inputs_nD).float(), dim=-1)

    def encode_users(self, history: Tensor, user_idx: Tensor | None = None, inputs_ND: Tensor | None = None) -> Tensor:
        """Users by their histories.

        Args:
            history: (B, H) int64, oldest first, padded at the left with -1.
            user_idx: (B,) int64; needed when the model has user embeddings. -1 marks an unknown user.
            inputs_ND: what `shared_inputs` gave, where the caller needs it too.

        Returns:
            (B, D) unit vectors.
        """
        present = history >= 0
        if self.training and self.config.history_dropout:
            present = present & (torch.rand(history.shape, device=history.device) >= self.config.history_dropout)
        logits = self.place_logits_H.expand_as(history).masked_fill(~present, -torch.inf)
        # softmax of a row of -inf is NaN; an empty history has its own vector instead.
        some = present.any(1, keepdim=True)
        weights = torch.softmax(torch.where(some, logits, 0.0), dim=1) * present
        inputs = self.item_inputs if self.history_inputs is None else self.history_inputs
        pooled = inputs.bag(history.clamp_min(0), weights, inputs_ND) + torch.where(some, 0.0, self.empty_history_D)
        if self.user_embedding is not None:
            if user_idx is None:
                raise ValueError("this model has user embeddings: pass user_idx")
            pooled = pooled + self.user_embedding(user_idx.clamp_min(0)) * (user_idx >= 0)[:, None]
        return F.normalize(self.user_layers(pooled).float(), dim=-1)
