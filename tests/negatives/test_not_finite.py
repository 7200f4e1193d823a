"""A step whose vectors are not finite: its update is skipped, and nothing that samplers and temperatures learn remembers it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from esans.negatives.groups import NegativeGroups
from esans.negatives.registry import build_samplers, resolve
from esans.negatives.tables import Catalogue
from tests.negatives.conftest import generator_of, loss_of, make_batch, temperature_of

DIM, ROWS = 4, 6

LEARN: dict[str, dict[str, Any]] = {
    "in_batch": {"groups": [{"sampler": "in_batch", "estimate": "streaming"}]},
    "cross_batch": {"groups": [{"sampler": "in_batch"}, {"sampler": "cross_batch", "capacity": 12}]},
    "midx": {"groups": [{"sampler": "midx", "num_negatives": 4}]},
    "fairneg": {"groups": [{"sampler": "fairneg", "num_negatives": 2, "candidates": 8, "update_every": 1}]},
    "ada_tau": {"groups": [{"sampler": "uniform", "num_negatives": 4}], "loss": "ada_tau", "temperature": "ada_tau"},
}


def groups_of(
    catalogue: Catalogue, groups: Sequence[dict[str, Any]], loss: str = "sampled_softmax", temperature: str = "learned"
) -> NegativeGroups:
    catalogue = dataclasses.replace(catalogue, dim=DIM, num_users=ROWS, num_interactions=500)
    return NegativeGroups(build_samplers(resolve(groups), catalogue), loss_of(catalogue, loss), temperature_of(catalogue, temperature))


def unit(rows: int, seed: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(rows, DIM, generator=generator_of(seed)), dim=-1)


@pytest.mark.parametrize("spoiled", ["one item", "one user", "all items"])
@pytest.mark.parametrize("name", LEARN)
def test_what_is_learned_stays_finite_and_so_does_the_next_step(catalogue: Catalogue, name: str, spoiled: str) -> None:
    groups = groups_of(catalogue, **LEARN[name])
    batch = make_batch([3, 7, 12, 20, 3, 30])
    for number, bad in enumerate((False, True, False, False)):
        table, users = unit(catalogue.num_items, 1), unit(ROWS, 2)
        if bad:
            where = {"one item": (table, slice(12, 13)), "one user": (users, slice(1, 2)), "all items": (table, slice(None))}[spoiled]
            where[0][where[1]] = torch.nan
        vectors = table
        result = groups(batch, users, lambda ids, vectors=vectors: [vectors[part] for part in ids], generator_of(number), number / 2, False)
        assert bad or torch.isfinite(result.loss_B).all(), number
        kept = {key: value for key, value in groups.state_dict().items() if isinstance(value, Tensor) and value.is_floating_point()}
        # A user's loss that is not known yet is NaN by design.
        assert all(torch.isfinite(value).all() for key, value in kept.items() if not key.endswith("user_loss_U")), (number, kept)
