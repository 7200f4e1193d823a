"""Item inputs: what an item is before the tower looks at it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from esans.model.sharded import ShardedTable

# Two of five places hold an item on online_retail, and one place of a bag costs half of what one item's inputs do.
_PLACES_AN_ITEM = 4


class Table(nn.Embedding):
    """Embeddings whose rows start with norm 0.3 or so.

    On the meta device nothing is drawn: there `normal_` would import torch's compiler, which takes seconds.
    """

    def reset_parameters(self) -> None:
        """What torch draws when it builds an embedding; `draw` draws over it, once all modules beside it are there."""
        if not self.weight.is_meta:
            super().reset_parameters()

    def draw(self) -> None:
        """Draw the rows."""
        if not self.weight.is_meta:
            nn.init.normal_(self.weight, std=0.3 / self.embedding_dim**0.5)


class ItemInputs(nn.Module):
    """Sum of an id embedding, a linear map of the frozen content vectors, and embeddings of side columns.

    Linear in each part, so a weighted bag of items costs one pass over bags, never one vector per history place.
    Shape letters: N items, F content dimensions, S side columns, D dimensions, H history places.
    """

    content_NF: Tensor
    side_NS: Tensor

    dynamic_shapes: bool = True
    """On a CPU, drop padding before the bags; False takes the path of a GPU, which would have to wait for the number that is left."""

    def __init__(self, num_items: int, dim: int, content_dim: int, side_sizes: Sequence[int]) -> None:
        super().__init__()
        self.id_embedding = Table(num_items, dim)
        self.content_map = nn.Linear(content_dim, dim, bias=False) if content_dim else None
        self.side_embeddings = nn.ModuleList(Table(size, dim) for size in side_sizes)
        # Frozen and rebuilt from bundles, hence outside the state dict.
        self.register_buffer("content_NF", torch.zeros(num_items, content_dim), persistent=False)
        self.register_buffer("side_NS", torch.zeros(num_items, len(side_sizes), dtype=torch.long), persistent=False)
        self._draw_tables()

    def reset_parameters(self) -> None:
        """Draw the weights anew from torch's generator, in the order in which building draws them."""
        for part in (self.id_embedding, self.content_map, *self.side_embeddings):
            if part is not None:
                part.reset_parameters()
        self._draw_tables()

    def _draw_tables(self) -> None:
        for table in (self.id_embedding, *self.side_embeddings):
            table.draw()

    @property
    def sharded(self) -> bool:
        """Whether the table of ids lies spread over the processes: then it is never looked at as a whole."""
        return isinstance(self.id_embedding, ShardedTable)

    def forward(self, ids: Tensor) -> Tensor:
        """(n,) int64 -> (n, D)."""
        total = self.id_embedding(ids)
        if self.content_map is not None:
            total = total + self.content_map(nn.functional.embedding(ids, self.content_NF))
        for place, table in enumerate(self.side_embeddings):
            total = total + table(self.side_NS[ids, place])
        return total

    def whole_pays(self, places: int, device: torch.device) -> bool:
        """Whether the inputs of all items, made once, are the faster way to those of so many history places.

        A CPU drops the padding among them, and what is left repeats few items until there are several times as many places as items.
        """
        times = _PLACES_AN_ITEM if self.dynamic_shapes and device.type == "cpu" else 1
        return places >= self.id_embedding.num_embeddings * times and not self.sharded

    def whole(self) -> Tensor:
        """The inputs of all items: (N, D)."""
        rows = self.id_embedding
        # Looked up, where it could be taken as it is, only for the sake of a sparse gradient.
        total = rows(torch.arange(rows.num_embeddings, device=rows.weight.device)) if rows.sparse else rows.weight
        if self.content_map is not None:
            total = total + self.content_map(self.content_NF)
        for place, table in enumerate(self.side_embeddings):
            total = total + table(self.side_NS[:, place])
        return total

    def bag(self, ids_BH: Tensor, weights_BH: Tensor, whole_ND: Tensor | None = None) -> Tensor:
        """Weighted sum of the inputs of (B, H) items: (B, D). Weights of padding places are 0; their ids must be legal.

        `whole_ND` is `whole()` where the caller has it already.
        """
        dynamic = self.dynamic_shapes and ids_BH.device.type == "cpu"
        if whole_ND is not None or self.whole_pays(ids_BH.numel(), ids_BH.device):
            # The inputs of all items once, then one pass over the bags.
            return _bag(self.whole() if whole_ND is None else whole_ND, ids_BH, weights_BH, dynamic)
        if isinstance(self.id_embedding, ShardedTable):
            rows, place_BH = self.id_embedding.distinct(ids_BH)
            total = _bag(rows, place_BH, weights_BH, dynamic)
        else:
            total = _bag(self.id_embedding.weight, ids_BH, weights_BH, dynamic, self.id_embedding.sparse)
        if self.content_map is not None:
            total = total + self.content_map(_bag(self.content_NF, ids_BH, weights_BH, dynamic))
        for place, table in enumerate(self.side_embeddings):
            codes_BH = self.side_NS[:, place][ids_BH]
            total = total + _bag(table.weight, codes_BH, weights_BH, dynamic, table.sparse)  # type: ignore[arg-type]
        return total


def _bag(table: Tensor, ids_BH: Tensor, weights_BH: Tensor, dynamic: bool, sparse: bool = False) -> Tensor:
    weights_BH = weights_BH.to(table.dtype)
    if not dynamic:
        return nn.functional.embedding_bag(ids_BH, table, per_sample_weights=weights_BH, mode="sum", sparse=sparse)
    # Most places of most histories are padding. A CPU drops them; a GPU would have to wait for their number.
    live = weights_BH != 0
    offsets = live.sum(1).cumsum(0).roll(1)
    offsets[0] = 0
    return nn.functional.embedding_bag(ids_BH[live], table, offsets, per_sample_weights=weights_BH[live], mode="sum", sparse=sparse)
