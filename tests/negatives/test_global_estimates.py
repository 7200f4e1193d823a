"""The pooled correction makes every mix of global groups estimate the full softmax's sum: E[Z-hat] = Z (METHOD 4b)."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor

from esans.negatives.base import Context, Terms
from esans.negatives.registry import build_samplers, resolve
from esans.negatives.tables import Catalogue
from tests.negatives.conftest import context_of, generator_of, loss_of, make_batch, make_clusters

TAU, DIM, ROWS = torch.tensor(0.3), 4, 8

GROUPS: dict[str, dict[str, object]] = {
    "uniform": {"sampler": "uniform", "num_negatives": 8},
    "shared": {"sampler": "uniform", "num_negatives": 16, "shared": True},
    "in_batch": {"sampler": "in_batch"},
    "popularity": {"sampler": "popularity", "num_negatives": 8},
    "popular_pool": {"sampler": "popularity", "num_negatives": 16, "shared": True, "power": 0.5},
    "midx": {"sampler": "midx", "num_negatives": 8},
    "cross_batch": {"sampler": "cross_batch", "capacity": 24},
    "full_softmax": {"sampler": "full_softmax"},
}
PAIRED = [name for name in GROUPS if name != "popular_pool"]
MIXES: list[tuple[str, ...]] = [("popularity",), ("popular_pool",), ("cross_batch",), ("full_softmax",)]
MIXES += [*itertools.combinations(PAIRED, 2), tuple(GROUPS)]


def estimates(names: tuple[str, ...], repeats: int) -> tuple[Tensor, Tensor]:
    """Estimates of Z, and the exact Z, on a catalogue of 25 items, three of which have no cluster, for one user."""
    tables = make_clusters([[4, 2], [7], [3, 6]], unassigned=3)
    num_items = len(tables.item_cell_N)
    share = torch.arange(1, num_items + 1).double()
    catalogue = Catalogue(num_items, (share / share.sum()).float(), tables, dim=DIM)
    vectors = torch.nn.functional.normalize(torch.randn(num_items, DIM, generator=generator_of(5)), dim=-1)
    user_BD = vectors[:1].roll(1, dims=1).expand(ROWS, -1)
    scores_N = vectors @ user_BD[0]
    fresh = build_samplers(resolve([GROUPS[name] for name in names]), catalogue)
    loss = loss_of(catalogue)
    totals = []
    for repeat in range(repeats):
        random = generator_of(repeat)

        def step(random: torch.Generator = random) -> Context:
            # The positives of a batch are drawn by their share, as the examples of an epoch are.
            batch = make_batch(torch.multinomial(share, ROWS, replacement=True, generator=random).tolist())
            return context_of(batch, user_BD, vectors[batch.target], temperature=TAU)

        samplers = copy.deepcopy(fresh)
        # Two steps fill two thirds of the queue, and give the clusters their means.
        for _ in range(2):
            seen = step()
            for sampler in samplers:
                sampler.wait(seen)
        context = step()
        terms = []
        for sampler in samplers:
            negatives = sampler.propose(context.batch, user_BD, random)
            # Z runs over all items here, the positive among them: nothing is masked but places without an item.
            valid = torch.ones(ROWS, negatives.ids.shape[-1], dtype=torch.bool)
            if sampler.name == "cross_batch":
                valid &= sampler.ids_M >= 0  # type: ignore[operator]
            terms.append(Terms(sampler.name, scores_N[negatives.ids].expand(ROWS, -1), valid, negatives.ids, "global"))
        logits = loss.logits(terms, samplers, context)
        draws = sum(sampler.draws_per_example(context.batch) for sampler in samplers)
        totals.append(torch.logsumexp(torch.cat(logits, 1).double(), 1).exp().mean() * num_items / draws)
    return torch.stack(totals), (scores_N.double() / TAU).exp().sum()


@pytest.mark.parametrize("names", MIXES, ids="+".join)
def test_every_mix_of_global_groups_estimates_the_full_sum_without_bias(names: tuple[str, ...]) -> None:
    found, exact = estimates(names, 120)
    error = found.std() / math.sqrt(len(found))
    assert (found.mean() - exact).abs() < 5 * error + 1e-5 * exact
    assert 5 * error < 0.3 * exact, "the test could not fail"
