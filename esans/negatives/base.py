"""What a negative sampler is (contract 3): propose -> encode -> refine -> loss -> observe, all on the training device.

Shape letters: B examples of a batch, D embedding dimensions, K known positives, N items of the catalogue; `cell` stands
for the trailing dimensions of one example's draws, such as (clusters, items per cluster).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor, nn

from esans.negatives.config import SamplerConfig, value_at
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
    num_items: int | None = None
    """N; with it, membership of shared draws is looked up in a table instead of searched for."""
    extra: dict[str, Tensor] = field(default_factory=dict)
    """Columns of the shards that a sampler asked for by `Sampler.columns`, by name: (B, n) int64, padded with -1."""

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
            return self._knows_shared(ids)
        flat = ids.reshape(len(self), -1)
        place = torch.searchsorted(self.known, flat.contiguous()).clamp_max(self.known.shape[1] - 1)
        known = self.known.gather(1, place) == flat
        return (known | (flat == self.target[:, None])).reshape(ids.shape)

    def _knows_shared(self, ids: Tensor) -> Tensor:
        """(B, n): the known items are looked up in the pool, B K look-ups instead of B n searches."""
        known = torch.cat([self.known, self.target[:, None]], dim=1)
        if self.num_items is not None:
            # place_N1: where an item stands in the pool (any of its places), n where it does not; row 0 is padding's.
            place_N1 = torch.full((self.num_items + 1,), len(ids), device=ids.device)
            place_N1[ids + 1] = torch.arange(len(ids), device=ids.device)
            # One flat index: a third of the time of an index a dimension. Misses are written to a spare last row.
            flat = place_N1.index_select(0, (known + 1).flatten()).view_as(known) * len(self)
            flat += torch.arange(len(self), device=ids.device)[:, None]
            met = torch.zeros((len(ids) + 1) * len(self), dtype=torch.bool, device=ids.device).index_fill_(0, flat.flatten(), True)
            return met.view(-1, len(self)).index_select(0, place_N1[ids + 1]).T.contiguous()
        ranked, order = ids.sort()
        first = torch.ones_like(ranked, dtype=torch.bool)
        first[1:] = ranked[1:] != ranked[:-1]
        group = first.cumsum(0) - 1
        place = torch.searchsorted(ranked, known.flatten()).clamp_max(len(ids) - 1)
        hit = (ranked[place] == known.flatten()).view_as(known)
        # Repeats of an id form one group; misses are written to a spare last column.
        column = torch.where(hit, group[place].view_as(known), len(ids))
        met = torch.zeros(len(self), len(ids) + 1, dtype=torch.bool, device=ids.device).scatter_(1, column, True)
        return met[:, torch.empty_like(order).scatter_(0, order, group)]


@dataclass
class Negatives:
    """Draws of one sampler."""

    ids: Tensor
    """(B, *cell) int64, or (n,) shared by the batch."""
    valid: Tensor
    """(B, *cell) bool, or (B, n) for shared draws; False for masked draws, whose ids are still legal."""
    vectors: Tensor | None = None
    """Unit vectors of the draws, (B, *cell, D) or (n, D), where the sampler has them already: they are not encoded again."""
    from_positives: Callable[[Tensor], Tensor] | None = None
    """Makes the unit vectors of shared draws, (n, D), from those of the batch's positives, (B, D), in place of encoding them."""

    @property
    def encoded(self) -> bool:
        """Whether the towers have to encode the draws."""
        return self.vectors is None and self.from_positives is None


@dataclass
class Context:
    """What a step knows once the towers have run. Vectors carry gradients; a sampler that only looks at them detaches."""

    batch: Batch
    user: Tensor
    """(B, D), unit norm."""
    positive_score: Tensor
    """(B,) cosine of user and positive."""
    positive_vector: Tensor
    """(B, D), unit norm."""
    generator: Generator
    epoch: float = 0.0
    """Epochs trained so far, with their fraction: what schedules run by."""
    temperature: Tensor = field(default_factory=lambda: torch.ones(()))
    """Scalar or (B,), > 0."""
    positive_temperature: Tensor | None = None
    """Scalar, > 0, where the positive has a temperature of its own."""
    terms: Sequence[Terms] = ()
    """In a loss and in `observe`, the terms of all groups."""
    negative_vectors: Tensor = field(default_factory=lambda: torch.empty(0))
    """In `refine` and `observe` of a sampler, its own draws: (B, *cell, D), or (n, D) for shared draws."""
    negatives: Negatives | None = None
    """In `observe` of a sampler, its own draws."""


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
    temperature_ratio: float = 1.0
    """Semantic terms are divided by the temperature times this."""


class Sampler(nn.Module, ABC):
    """Base of every negative sampler: one small file, one page."""

    kind: ClassVar[Kind] = "global"

    Config = SamplerConfig

    def __init__(self, config: SamplerConfig, catalogue: Catalogue) -> None:
        super().__init__()
        self.config = config
        self.num_items = catalogue.num_items

    @classmethod
    def columns(cls, config: SamplerConfig) -> tuple[str, ...]:
        """Columns of the shards that the sampler reads from `Batch.extra`; int lists padded with -1."""
        return ()

    @abstractmethod
    def propose(self, batch: Batch, user_BD: Tensor, generator: Generator) -> Negatives:
        """Draw negatives; `user_BD` carries no gradient."""

    def refine(self, negatives: Negatives, scores: Tensor, context: Context) -> list[Terms]:
        """Turn scored draws into terms of the loss; keeps them as they are unless a sampler says otherwise.

        Args:
            negatives: what `propose` drew.
            scores: cosines of each user and its draws, shaped like `negatives.valid`, with gradient.
            context: user, positive, and the draws' vectors.
        """
        rows = len(context.batch)
        ids = negatives.ids if negatives.ids.dim() == 1 else negatives.ids.reshape(rows, -1)
        return [self.terms(self.name, scores.reshape(rows, -1), negatives.valid.reshape(rows, -1), context, ids)]

    def terms(self, name: str, scores_Bn: Tensor, valid_Bn: Tensor, context: Context, ids: Tensor | None = None) -> Terms:
        """Terms of this group, with its weight and temperature at this point of the training."""
        weight = value_at(getattr(self.config, "log_weight", 0.0), context.epoch)
        ratio = getattr(self.config, "temperature_ratio", 1.0)
        return Terms(name, scores_Bn, valid_Bn, ids, self.kind, weight, ratio)

    def log_expected_count(self, context: Context, ids: Tensor) -> Tensor | None:
        """Log of how often each id is expected among one example's draws, before masks; None without a closed form.

        Args:
            context: the step that was drawn for; its user vectors must be detached before use.
            ids: (n,) or (B, n) int64.

        Returns:
            float32 of the shape of `ids`, or (B, n) where it depends on the example; no gradient.
        """
        return None

    @abstractmethod
    def draws_per_example(self, batch: Batch) -> int:
        """Terms of one example before masks (n_g of METHOD 4b)."""

    def encodings_per_example(self, batch: Batch) -> float:
        """Item vectors that this group needs beyond the positives, per example: the cost that methods are compared at."""
        return self.draws_per_example(batch)

    def observe(self, context: Context, loss_B: Tensor) -> None:
        """Learn from the losses of the step; most samplers have nothing to learn."""

    def wait(self, context: Context) -> None:
        """Called instead of everything else at each step before the group enters; `context` holds no draws of its own.

        A sampler that keeps state over steps fills it here, so that it is ready when it enters.
        """

    def entered(self, epoch: float) -> bool:
        """Whether the group takes part at this point of the training."""
        return epoch >= self.config.enters_at_epoch

    @property
    def name(self) -> str:
        """The name in the config, without a package path."""
        return str(self.config.sampler).rpartition(":")[2]
