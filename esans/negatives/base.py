"""What a negative sampler is (contract 3): propose -> encode -> refine -> loss -> observe, all on the training device.

Shape letters: B examples of a batch, D embedding dimensions, K known positives, N items of the catalogue; `cell` stands
for the trailing dimensions of one example's draws, such as (clusters, items per cluster).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor, nn

from esans.negatives.config import SamplerConfig
from esans.negatives.tables import Catalogue

Kind = Literal["global", "semantic"]


@dataclass
class Batch:
    """One batch of training examples on the training device."""

    user_idx: Tensor
    """(B,) int64."""
    history: Tensor
    """(B, H) int64, oldest first, padded at the left with -1."""
    target: Tensor
    """(B,) int64, the positives."""
    weight: Tensor
    """(B,) float32; 0 marks padding of the last batch."""
    known: Tensor
    """(B, K) int64, ascending, padded with -1: the user's train positives."""

    def __len__(self) -> int:
        return len(self.target)

    def knows(self, ids: Tensor) -> Tensor:
        """Whether an id is the example's positive or one of its known positives.

        Args:
            ids: (B, *cell) draws per example, or (n,) draws shared by the batch.

        Returns:
            (B, *cell) or (B, n) bool.
        """
        if ids.dim() == 1:
            return self._knows_shared(ids) | (ids == self.target[:, None])
        flat = ids.reshape(len(self), -1)
        place = torch.searchsorted(self.known, flat.contiguous()).clamp_max(self.known.shape[1] - 1)
        known = self.known.gather(1, place) == flat
        return (known | (flat == self.target[:, None])).reshape(ids.shape)

    def _knows_shared(self, ids: Tensor) -> Tensor:
        """(B, n): the known items are looked up in the pool, B K searches instead of B n."""
        ranked, order = ids.sort()
        first = torch.ones_like(ranked, dtype=torch.bool)
        first[1:] = ranked[1:] != ranked[:-1]
        group = first.cumsum(0) - 1
        place = torch.searchsorted(ranked, self.known.flatten()).clamp_max(len(ids) - 1)
        hit = (ranked[place] == self.known.flatten()).view_as(self.known)
        # Repeats of an id form one group; misses are written to a spare last column.
        column = torch.where(hit, group[place].view_as(self.known), len(ids))
        met = torch.zeros(len(self), len(ids) + 1, dtype=torch.bool, device=ids.device).scatter_(1, column, True)
        return met[:, torch.empty_like(order).scatter_(0, order, group)]


@dataclass
class Negatives:
    """Draws of one sampler."""

    ids: Tensor
    """(B, *cell) int64, or (n,) shared by the batch."""
    valid: Tensor
    """(B, *cell) bool, or (B, n) for shared draws; False for masked draws, whose ids are still legal."""


@dataclass
class Context:
    """What a step knows once the towers have run."""

    batch: Batch
    user: Tensor
    """(B, D), unit norm."""
    positive_score: Tensor
    """(B,) cosine of user and positive."""
    positive_vector: Tensor
    """(B, D), unit norm."""
    negative_vectors: Tensor
    """(B, *cell, D), or (n, D) for shared draws."""
    temperature: Tensor
    """Scalar or (B,), > 0."""
    generator: Generator


@dataclass
class Terms:
    """Terms that a group brings into the denominator of the softmax."""

    name: str
    scores: Tensor
    """(B, n) cosines."""
    valid: Tensor
    """(B, n) bool."""
    ids: Tensor | None = None
    """(n,) or (B, n) int64 for terms that are catalogue items; None for virtual ones."""
    kind: Kind = "global"
    log_weight: float = 0.0
    """Added to the logits of semantic terms (METHOD 4b)."""


class Sampler(nn.Module):
    """Base of every negative sampler: one small file, one page."""

    kind: ClassVar[Kind] = "global"

    Config = SamplerConfig

    def __init__(self, config: SamplerConfig, catalogue: Catalogue) -> None:
        super().__init__()
        self.config = config
        self.num_items = catalogue.num_items

    def propose(self, batch: Batch, user_BD: Tensor, generator: Generator) -> Negatives:
        """Draw negatives; `user_BD` carries no gradient."""
        raise NotImplementedError

    def refine(self, negatives: Negatives, scores: Tensor, context: Context) -> list[Terms]:
        """Turn scored draws into terms of the loss; keeps them as they are unless a sampler says otherwise."""
        rows = len(context.batch)
        ids = negatives.ids if negatives.ids.dim() == 1 else negatives.ids.reshape(rows, -1)
        return [Terms(self.name, scores.reshape(rows, -1), negatives.valid.reshape(rows, -1), ids, self.kind, self.log_weight)]

    def log_expected_count(self, batch: Batch, ids: Tensor) -> Tensor | None:
        """Log of how often each id is expected among one example's draws, before masks; None without a closed form.

        Args:
            batch: the batch that was drawn for.
            ids: (n,) or (B, n) int64.

        Returns:
            float32 of the shape of `ids`, or (B, n) where it depends on the example.
        """
        return None

    def draws_per_example(self, batch: Batch) -> int:
        """Terms of one example before masks (n_g of METHOD 4b)."""
        raise NotImplementedError

    def observe(self, context: Context, loss_B: Tensor) -> None:
        """Learn from the losses of the step; most samplers have nothing to learn."""

    @property
    def name(self) -> str:
        """The name in the config, without a package path."""
        return str(self.config.sampler).rpartition(":")[2]

    @property
    def log_weight(self) -> float:
        """Log-weight of a semantic group; 0 for global ones, which are corrected instead."""
        return float(getattr(self.config, "log_weight", 0.0))
