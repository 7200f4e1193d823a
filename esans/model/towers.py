"""Two towers: an item tower over id, content and side columns; a user tower over the history window."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esans.model.config import ModelConfig
from esans.model.inputs import ItemInputs


class Residual(nn.Module):
    """x + MLP(x), or x where the hidden width is 0."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim)) if hidden else None

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
        self.empty_history_D = nn.Parameter(torch.randn(config.dim) * 0.3 / config.dim**0.5)
        self.user_embedding = nn.Embedding(num_users, config.dim) if config.user_id else None
        if self.user_embedding is not None:
            nn.init.normal_(self.user_embedding.weight, std=0.3 / config.dim**0.5)

    @property
    def dim(self) -> int:
        """Dimensions of the vectors."""
        return self.config.dim

    @property
    def num_items(self) -> int:
        """Items of the catalogue."""
        return self.item_inputs.id_embedding.num_embeddings

    @property
    def history_length(self) -> int:
        """Places of the history window."""
        return len(self.place_logits_H)

    def set_content(self, content_NF: Tensor | None, side_NS: Tensor | None) -> None:
        """Put the frozen content vectors (N, F) float32 and side codes (N, S) int64 in place."""
        for inputs in (self.item_inputs, self.history_inputs):
            if inputs is None:
                continue
            if content_NF is not None and self.config.content:
                inputs.content_NF = content_NF.to(inputs.content_NF.device)
            if side_NS is not None and self.config.side:
                inputs.side_NS = side_NS.to(inputs.side_NS.device)

    def shared_inputs(self, places: int) -> Tensor | None:
        """Inputs of all items (N, D), where both towers read them and that many history places make it the faster way; else None."""
        return self.item_inputs.whole() if self.history_inputs is None and places >= self.num_items else None

    def encode_items(self, item_idx: Tensor) -> Tensor:
        """(n,) int64 -> (n, D) unit vectors."""
        return self.encode_inputs(self.item_inputs(item_idx))

    def encode_inputs(self, inputs_nD: Tensor) -> Tensor:
        """Item inputs (n, D) -> (n, D) unit vectors."""
        return F.normalize(self.item_layers(inputs_nD), dim=-1)

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
        return F.normalize(self.user_layers(pooled), dim=-1)
