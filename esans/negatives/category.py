"""Negatives of the positive's category."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from esans.negatives.base import Batch, Context, Negatives, Sampler
from esans.negatives.clusters import below, first_of_each
from esans.negatives.config_global import CategoryConfig
from esans.negatives.tables import Catalogue


class Category(Sampler):
    """Other items with the positive's value of a side column, as Airbnb draws listings of the same market (KDD 2018; METHOD 6).

    A semantic group although its draw has a closed form: it never leaves the category, so a correction would estimate the
    sum over the category instead of the catalogue, and beside a global group it would undo the designed hardness (METHOD 4b).
    A positive without a value, or alone with it, has no negatives here.

    Raises:
        ConfigError: there is no such side column; the known ones are named.
    """

    kind = "semantic"

    Config = CategoryConfig

    config: CategoryConfig
    code_N: Tensor
    members_N: Tensor
    place_N: Tensor
    offset_C: Tensor
    count_C: Tensor

    def __init__(self, config: CategoryConfig, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        code_N = catalogue.require_side(self.name, config.column)
        members_N = code_N.argsort(stable=True)
        count_C = torch.bincount(code_N)
        offset_C = count_C.cumsum(0) - count_C
        # Where each item stands within its category.
        place_N = torch.empty_like(members_N).scatter_(0, members_N, torch.arange(len(code_N))) - offset_C[code_N]
        tables = {"code_N": code_N, "members_N": members_N, "place_N": place_N, "offset_C": offset_C, "count_C": count_C}
        for name, tensor in tables.items():
            self.register_buffer(name, tensor, persistent=False)

    def propose(self, batch: Batch, user_BD: Tensor, generator: Generator) -> Negatives:
        """Draw (B, num_negatives) ids with replacement; masked: known ones, repeats in the row, rows without a pool."""
        code_B = self.code_N[batch.target]
        others_B = self._others(code_B)
        drawn_Bn = below(others_B.clamp_min(1)[:, None].expand(-1, self.config.num_negatives), generator)
        # The positive is cut out: places after it move up by one.
        moved_Bn = drawn_Bn + (drawn_Bn >= self.place_N[batch.target][:, None])
        live_B1 = (others_B > 0)[:, None]
        ids_Bn = self.members_N[torch.where(live_B1, self.offset_C[code_B][:, None] + moved_Bn, 0)]
        return Negatives(ids_Bn, first_of_each(ids_Bn) & ~batch.knows(ids_Bn) & live_B1)

    def _others(self, code_B: Tensor) -> Tensor:
        """Items to draw from: 0 where the value is missing."""
        return torch.where(code_B > 0, self.count_C[code_B] - 1, 0)

    def log_expected_count(self, context: Context, ids: Tensor) -> Tensor:
        """num_negatives over the other items of the category, -inf elsewhere."""
        target_B1 = context.batch.target[:, None]
        ids_Bn, code_B1 = ids.expand(len(context.batch), -1), self.code_N[target_B1]
        others_B1 = self._others(code_B1)
        in_pool = (self.code_N[ids_Bn] == code_B1) & (ids_Bn != target_B1) & (others_B1 > 0)
        return torch.where(in_pool, math.log(self.config.num_negatives) - others_B1.clamp_min(1).log(), -torch.inf)

    def draws_per_example(self, batch: Batch) -> int:
        """num_negatives."""
        return self.config.num_negatives
