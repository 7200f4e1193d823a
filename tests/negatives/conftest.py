"""Small catalogues and batches for sampler tests."""

from __future__ import annotations

import pytest
import torch

from esans.negatives.base import Batch, Context
from esans.negatives.loss import Loss
from esans.negatives.registry import LOSSES, TEMPERATURES, build_loss, build_temperature
from esans.negatives.tables import Catalogue, ClusterTables
from esans.negatives.temperature import Temperature


def make_clusters(cells: list[list[int]], fallbacks: list[list[int]] | None = None, unassigned: int = 0, dim: int = 4) -> ClusterTables:
    """Tables of primaries given as lists of cell sizes; items are numbered in member order, then the unassigned ones."""
    generator = torch.Generator().manual_seed(0)
    sizes = [size for primary in cells for size in primary]
    cell_primary = torch.tensor([place for place, primary in enumerate(cells) for _ in primary])
    cell_count = torch.tensor(sizes)
    cell_offset = cell_count.cumsum(0) - cell_count
    primary_count = torch.tensor([sum(primary) for primary in cells])
    total = int(cell_count.sum())
    item_cell = torch.cat([torch.repeat_interleave(torch.arange(len(sizes)), cell_count), torch.full((unassigned,), -1)])
    centroids = torch.randn(len(cells), dim, generator=generator)
    tables = ClusterTables(
        members_M=torch.arange(total),
        item_primary_N=torch.where(item_cell >= 0, cell_primary[item_cell.clamp_min(0)], -1),
        item_cell_N=item_cell,
        cell_offset_S=cell_offset,
        cell_count_S=cell_count,
        cell_primary_S=cell_primary,
        cell_fallback_S=torch.tensor([place for row in fallbacks for place in row]) if fallbacks else torch.full((len(sizes),), -1),
        primary_offset_P=primary_count.cumsum(0) - primary_count,
        primary_count_P=primary_count,
        centroids_PD=centroids,
        transitions_PP=torch.empty(0),
    )
    tables.transitions_PP = tables.transitions_at(1.0)
    return tables


def make_batch(targets: list[int], known: list[list[int]] | None = None, width: int = 8) -> Batch:
    """A batch with given positives and known positives."""
    rows = len(targets)
    lists = known or [[] for _ in targets]
    padded = torch.tensor([[-1] * (width - len(row)) + sorted(row) for row in lists])
    return Batch(torch.arange(rows), torch.full((rows, 3), -1), torch.tensor(targets), torch.ones(rows), padded)


def context_of(batch: Batch, user: torch.Tensor | None = None, positive: torch.Tensor | None = None, **rest: object) -> Context:
    """A step's context; vectors that a test does not look at are zeros."""
    zeros = torch.zeros(len(batch), 1)
    user_BD, positive_BD = zeros if user is None else user, zeros if positive is None else positive
    score_B = (user_BD * positive_BD).sum(-1)
    return Context(batch, user_BD, score_B, positive_BD, rest.pop("generator", generator_of(0)), **rest)  # type: ignore[arg-type]


def loss_of(catalogue: Catalogue, name: str = "sampled_softmax", **keys: object) -> Loss:
    """A loss by name."""
    return build_loss(LOSSES.resolve({"loss": name, **keys}, "train.loss"), catalogue)


def temperature_of(catalogue: Catalogue, name: str = "fixed", **keys: object) -> Temperature:
    """A temperature by name."""
    return build_temperature(TEMPERATURES.resolve({"temperature": name, **keys}, "train.temperature"), catalogue)


def generator_of(seed: int) -> torch.Generator:
    """A seeded CPU generator."""
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def clusters() -> ClusterTables:
    """Four unequal primaries; the second has one cell only, topped up from the third; two items have no cluster."""
    return make_clusters([[5, 3, 2], [6], [4, 8], [10, 1]], [[-1, -1, -1], [2], [-1, -1], [-1, -1]], unassigned=2)


@pytest.fixture
def catalogue(clusters: ClusterTables) -> Catalogue:
    """A catalogue over `clusters` with unequal target counts, one item never a target."""
    num_items = len(clusters.item_cell_N)
    counts = torch.arange(num_items).float()
    return Catalogue(num_items, counts / counts.sum(), clusters)
