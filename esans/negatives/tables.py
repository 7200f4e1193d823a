"""Tables that samplers draw from, as tensors on the training device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from esans.errors import ConfigError


@dataclass
class ClusterTables:
    """MSAC cluster tables (METHOD 2): CSR of items sorted by (primary, secondary), and what lies around each item's cell.

    Shape letters: N items, M assigned items, S non-empty cells, P primaries.
    """

    members_M: Tensor
    """item_idx sorted by (c1, c2)."""
    item_primary_N: Tensor
    """c1 of each item, -1 where it has none."""
    item_cell_N: Tensor
    """Row of the item's cell in the cell tables, -1 where it has none."""
    cell_offset_S: Tensor
    """First place of the cell in `members_M`."""
    cell_count_S: Tensor
    """Items of the cell."""
    cell_primary_S: Tensor
    """c1 of the cell."""
    cell_fallback_S: Tensor
    """Primary that tops up the cell's hard pool, -1 where none is needed."""
    primary_offset_P: Tensor
    """First place of the primary in `members_M`."""
    primary_count_P: Tensor
    """Items of the primary."""
    centroids_PD: Tensor
    """Centroids of the primaries."""
    transitions_PP: Tensor
    """P(C_j | C_i), 0 on the diagonal."""

    def to(self, device: torch.device | str) -> ClusterTables:
        """The same tables on a device."""
        return ClusterTables(**{name: tensor.to(device) for name, tensor in vars(self).items()})

    def transitions_at(self, temperature: float) -> Tensor:
        """Transition probabilities between primaries at another temperature: softmax over j != i of -||P_i - P_j|| / T_c (METHOD 2)."""
        distance_PP = torch.cdist(self.centroids_PD, self.centroids_PD)
        distance_PP.fill_diagonal_(torch.inf)
        return torch.softmax(-distance_PP / temperature, dim=1)

    def log_transitions(self, temperature: float | None = None) -> Tensor:
        """Log P(C_j | C_i), (P, P) float32 with -inf on the diagonal: of the table, or at another temperature."""
        transitions_PP = self.transitions_PP if temperature is None else self.transitions_at(temperature)
        # A sharp temperature underflows to 0; the floor keeps every other primary drawable, the diagonal never is.
        return transitions_PP.clamp_min(1e-30).log().fill_diagonal_(-torch.inf)


@dataclass
class Catalogue:
    """What samplers know about the items."""

    num_items: int
    target_probability_N: Tensor
    """Share of each item among the positives of the training examples."""
    clusters: ClusterTables | None = None
    num_users: int = 0
    """Users of the shards: `Batch.user_idx` runs below it; 0 where nobody needs to know."""
    num_interactions: int = 0
    """Training examples; 0 where nobody needs to know."""
    columns: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """What the shards stage joined to the examples for samplers: the shape of one example's list, by column."""
    dim: int = 0
    """Dimensions of the item vectors; 0 where nobody needs to know."""
    side: Mapping[str, Tensor] = field(default_factory=dict)
    """Codes of the side columns, (N,) int64 by name; code 0 is missing or unknown."""

    neighbours: Callable[[int], Tensor] | None = None
    """Reads the nearest items of each by co-occurrence, best first: count -> (N, count) int64, padded with -1."""

    def require_neighbours(self, sampler: str, count: int) -> Tensor:
        """The `count` nearest items of each, (N, count) int64. Raises ConfigError naming the sampler that asked."""
        if self.neighbours is None:
            raise ConfigError(f"train.negatives: {sampler}.spare_neighbours needs the item graph; run the features stage.")
        return self.neighbours(count)

    def require_clusters(self, sampler: str) -> ClusterTables:
        """The cluster tables. Raises ConfigError naming the sampler that cannot do without them."""
        if self.clusters is None:
            raise ConfigError(f"train.negatives: the {sampler} sampler needs cluster tables; run the cluster stage.")
        return self.clusters

    def require_dim(self, sampler: str) -> int:
        """Dimensions of the item vectors. Raises ConfigError naming the sampler that keeps vectors between steps."""
        if self.dim < 1:
            raise ConfigError(f"train.negatives: the {sampler} sampler keeps item vectors and must be told their dimensions.")
        return self.dim

    def require_side(self, sampler: str, column: str) -> Tensor:
        """Codes of a side column, (N,) int64. Raises ConfigError naming the columns there are."""
        if column not in self.side:
            known = ", ".join(sorted(self.side)) or "none; name some in prepare.items.side"
            raise ConfigError(f"train.negatives: {sampler}.column = {column!r} is no side column. Known: {known}.")
        return self.side[column]

    def require_column(self, sampler: str, column: str, key: str) -> tuple[int, ...]:
        """Shape of one example's list in a column. Raises ConfigError naming the key of `shards` that writes the column."""
        if column not in self.columns:
            raise ConfigError(f"train.negatives: the {sampler} sampler needs the column {column!r} in the shards: set shards.{key}.")
        return self.columns[column]
