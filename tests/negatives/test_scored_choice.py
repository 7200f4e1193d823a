"""Samplers that keep one candidate of each pool or draw a few: worked examples, stated distributions, masks (METHOD 6)."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from esans.errors import ConfigError
from esans.negatives.base import Negatives, Sampler, Terms
from esans.negatives.groups import NegativeGroups
from esans.negatives.registry import build_samplers, resolve
from esans.negatives.tables import Catalogue
from tests.negatives.conftest import context_of, generator_of, loss_of, make_batch, temperature_of

NAMES = ["dns", "mixgcf", "simans", "ahns", "mochi", "fairneg"]
SMALL = {
    "dns": {"candidates": 6, "num_negatives": 3, "top": 2},
    "mixgcf": {"candidates": 6, "num_negatives": 3},
    "simans": {"candidates": 6, "num_negatives": 3},
    "ahns": {"candidates": 6, "num_negatives": 3},
    "mochi": {"candidates": 6, "hardest": 4, "num_pairs": 3, "num_query_mixes": 2},
    "fairneg": {"candidates": 6, "num_negatives": 3, "groups": 4},
}


def sampler(name: str, catalogue: Catalogue, **keys: object) -> Sampler:
    return build_samplers(resolve([{"sampler": name, **keys}]), catalogue)[0]


def unit(*shape: int, seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator_of(seed)), dim=-1)


def scored(
    drawing: Sampler, scores: list[float], rows: int = 1, valid: list[bool] | None = None, positive: float = 0.5, temperature: float = 1.0
) -> Terms:
    """First terms of rows that are all alike: candidates 1, 2, .. of given scores, item 0 the positive of a given score."""
    ids = torch.arange(1, len(scores) + 1).expand(rows, -1)
    live = torch.tensor(valid or [True] * len(scores)).expand(rows, -1)
    context = context_of(make_batch([0] * rows), temperature=torch.tensor(temperature))
    context.positive_score = torch.full((rows,), positive)
    table = torch.tensor(scores).expand(rows, -1).clone().requires_grad_()
    return drawing.refine(Negatives(ids, live), table, context)[0]


def frequencies(terms: Terms, items: int) -> np.ndarray:
    """How often each candidate 1 .. items was the first draw."""
    assert terms.ids is not None
    return torch.bincount(terms.ids[:, 0], minlength=items + 1)[1:].double().numpy()


def test_dns_takes_the_hardest_live_of_each_pool(catalogue: Catalogue) -> None:
    drawing = sampler("dns", catalogue, candidates=3, num_negatives=2)
    terms = scored(drawing, [0.1, 0.9, 0.4, -0.2, 0.3, 0.2], valid=[True, False, True, True, True, True])
    assert terms.ids is not None
    assert terms.ids.tolist() == [[3, 5]]
    assert torch.allclose(terms.scores, torch.tensor([[0.4, 0.3]]))
    assert terms.scores.requires_grad
    assert terms.valid.all()


def test_dns_draws_evenly_among_the_top_live(catalogue: Catalogue) -> None:
    drawing = sampler("dns", catalogue, candidates=5, num_negatives=1, top=3)
    counts = frequencies(scored(drawing, [0.5, 0.1, 0.7, 0.3, 0.2], rows=9000), 5)
    assert counts[[1, 4]].sum() == 0
    assert chisquare(counts[[0, 2, 3]]).pvalue > 1e-4
    few = frequencies(scored(drawing, [0.5, 0.1, 0.7, 0.3, 0.2], 200, [False, True, False, False, True]), 5)
    assert few[[0, 2, 3]].sum() == 0
    assert few[[1, 4]].min() > 50


@pytest.mark.parametrize(
    ("positive", "wanted"),
    # Sought: .5 / (.5 + .5) = .5; .5 / (-.1 + .5) = 1.25; .5 / .001, clamped; .5 / 1.5 = .33.
    [(0.5, 2), (-0.1, 4), (-0.9, 4), (1.0, 1)],
)
def test_ahns_seeks_an_easier_negative_for_a_better_positive(catalogue: Catalogue, positive: float, wanted: int) -> None:
    drawing = sampler("ahns", catalogue, candidates=4, num_negatives=1, alpha=0.5, beta=0.5)
    scores = [0.35, 0.52, 0.1, 0.9]
    sought = 0.5 / max(positive + 0.5, 1e-3)
    assert wanted == 1 + int(np.argmin([abs(score - sought) for score in scores]))
    terms = scored(drawing, scores, positive=positive)
    assert terms.ids is not None
    assert terms.ids.tolist() == [[wanted]]


@pytest.mark.parametrize(("scale", "unit_of_scale"), [("logits", 0.2), ("cosines", 1.0)])
def test_simans_draws_by_the_distance_from_the_positive(catalogue: Catalogue, scale: str, unit_of_scale: float) -> None:
    drawing = sampler("simans", catalogue, candidates=5, num_negatives=1, a=0.7, b=-0.4, scale=scale)
    scores = np.array([0.9, 0.5, 0.3, -0.1, 0.2])
    weights = np.exp(-0.7 * ((scores - 0.5) / unit_of_scale + 0.4) ** 2) * np.array([1, 1, 0, 1, 1])
    terms = scored(drawing, scores.tolist(), 20_000, [True, True, False, True, True], temperature=0.2)
    counts, expected = frequencies(terms, 5), 20_000 * weights / weights.sum()
    assert counts[2] == 0
    assert chisquare(counts[[0, 1, 3, 4]], expected[[0, 1, 3, 4]]).pvalue > 1e-4


def test_simans_draws_without_replacement_and_masks_what_is_missing(catalogue: Catalogue) -> None:
    drawing = sampler("simans", catalogue, candidates=4, num_negatives=3)
    terms = scored(drawing, [0.1, 0.2, 0.3, 0.4], 50, [True, False, False, True])
    assert terms.ids is not None
    assert (terms.valid.sum(1) == 2).all()
    assert (terms.ids[:, :2].sort(1).values == torch.tensor([1, 4])).all()
    assert not terms.valid[:, 2].any()


def test_fairneg_draws_by_score_and_group(catalogue: Catalogue) -> None:
    codes = torch.zeros(catalogue.num_items, dtype=torch.int64)
    codes[:3], codes[3:10] = 1, 2
    grouped = dataclasses.replace(catalogue, side={"kind": codes})
    drawing = sampler("fairneg", grouped, candidates=4, num_negatives=1, column="kind")
    drawing.probability_G.copy_(torch.tensor([0.5, 0.3, 0.2]))
    # Candidates 1 and 2 are of the group of 3 items, 3 and 4 of the group of 7; the last one is masked.
    softmax = np.exp(np.array([0.2, -0.3, 0.6]) / 0.4)
    by_group = np.array([0.3 / 3, 0.3 / 3, 0.2 / 7])
    share = 0.4 * softmax / softmax.sum() + 0.6 * by_group / by_group.sum()
    counts = frequencies(scored(drawing, [0.2, -0.3, 0.6, 0.9], 20_000, [True, True, True, False]), 4)
    assert counts[3] == 0
    assert chisquare(counts[:3], 20_000 * share).pvalue > 1e-4


def test_fairneg_learns_by_hand(catalogue: Catalogue) -> None:
    """Two groups, an update every second step; a padded row counts for nothing."""
    codes = (torch.arange(catalogue.num_items) >= 10).long()
    grouped = dataclasses.replace(catalogue, side={"kind": codes})
    drawing = sampler("fairneg", grouped, column="kind", update_every=2)
    start = 10 / catalogue.num_items
    assert torch.allclose(drawing.probability_G, torch.tensor([start, 1 - start]))
    batch = make_batch([0, 20, 30])
    batch.weight = torch.tensor([1.0, 1.0, 0.0])
    probability, momentum = np.array([start, 1 - start]), np.zeros(2)
    for first, second in [((0.1, 0.6, 9.0), (0.3, 0.2, 9.0)), ((-0.4, 0.5, 9.0), (0.0, 0.5, 9.0))]:
        for step, positives in enumerate((first, second)):
            context = context_of(batch, temperature=torch.tensor(0.5))
            context.positive_score = torch.tensor(positives)
            before = drawing.probability_G.clone()
            drawing.observe(context, torch.zeros(3))
            assert torch.equal(before, drawing.probability_G) == (step == 0)
        losses = np.array([[math.log(1 + math.exp(-row[group] / 0.5)) for row in (first, second)] for group in (0, 1)]).mean(1)
        momentum = 0.9 * momentum + 0.1 * (losses - losses.mean())
        probability = np.clip(probability - 0.2 * momentum, 0, 1)
        probability /= probability.sum()
    assert np.allclose(drawing.probability_G.numpy(), probability, atol=1e-6)
    assert np.allclose(drawing.momentum_G.numpy(), momentum, atol=1e-6)
    assert probability[0] < start, "the group that loses more is drawn less"
    assert {"probability_G", "momentum_G", "loss_G", "weight_G", "steps"} == set(drawing.state_dict())


def test_fairneg_groups_by_popularity_and_clips(catalogue: Catalogue) -> None:
    drawing = sampler("fairneg", catalogue, groups=4, update_every=1, rate=1e6)
    assert drawing.size_G.tolist() == [11, 10, 10, 10]
    assert drawing.group_N.tolist() == sorted(drawing.group_N.tolist()), "item counts rise with the id in this catalogue"
    context = context_of(make_batch([0, 40]))
    context.positive_score = torch.tensor([-0.5, 0.5])
    drawing.observe(context, torch.zeros(2))
    # The two unseen groups do not move: 0, 10/41, 10/41, 1 before they are made to sum to 1.
    assert torch.allclose(drawing.probability_G, torch.tensor([0.0, 10, 10, 41]) / 61)


@pytest.mark.parametrize("pool", ["example", "shared"])
@pytest.mark.parametrize("name", NAMES)
def test_never_a_known_item(catalogue: Catalogue, name: str, pool: str) -> None:
    known = [[1, 5, 9], [2, 3, 4], []]
    batch = make_batch([7, 8, 9], known)
    drawing = sampler(name, catalogue, pool=pool, **SMALL[name])
    vectors, user = unit(catalogue.num_items, 4, seed=1), unit(3, 4, seed=2)
    for seed in range(30):
        negatives = drawing.propose(batch, user, generator_of(seed))
        negative_vectors = vectors[negatives.ids]
        scores = torch.einsum("nd,bd->bn" if pool == "shared" else "bnd,bd->bn", negative_vectors, user)
        context = context_of(batch, user, vectors[batch.target], negative_vectors=negative_vectors, generator=generator_of(seed))
        for terms in drawing.refine(negatives, scores, context):
            assert terms.kind == "semantic"
            assert terms.scores.shape == terms.valid.shape
            if terms.ids is None:
                continue
            for row, items in enumerate(known):
                kept = terms.ids.expand_as(terms.valid)[row][terms.valid[row]].tolist()
                assert not set(kept) & {*items, 7 + row}
                assert len(set(kept)) == len(kept)
                places = terms.ids.expand_as(terms.valid)[row][terms.valid[row]]
                assert torch.allclose(terms.scores[row][terms.valid[row]], vectors[places] @ user[row], atol=1e-6)


@pytest.mark.parametrize("pool", ["example", "shared"])
@pytest.mark.parametrize("name", NAMES)
def test_rows_without_candidates_have_a_finite_loss(name: str, pool: str) -> None:
    catalogue = Catalogue(6, torch.full((6,), 1 / 6))
    groups = NegativeGroups([sampler(name, catalogue, pool=pool, **SMALL[name])], loss_of(catalogue), temperature_of(catalogue, start=0.1))
    table = unit(6, 4).requires_grad_()
    user = unit(2, 4, seed=5).requires_grad_()
    batch = make_batch([0, 1], [[0, 1, 2, 3, 4, 5], [1, 2]])
    result = groups(batch, user, lambda parts: [table[ids] for ids in parts], generator_of(0))
    result.loss_B.sum().backward()
    assert result.loss_B[0] == 0
    assert result.loss_B[1] > 0
    assert table.grad is not None
    assert user.grad is not None
    assert torch.isfinite(table.grad).all()
    assert torch.isfinite(user.grad).all()
    assert not user.grad[0].any()


@pytest.mark.parametrize(
    ("name", "draws", "encoded"),
    [("dns", 3, 18), ("mixgcf", 3, 18), ("ahns", 3, 18), ("simans", 3, 6), ("fairneg", 3, 6), ("mochi", 11, 6)],
)
def test_costs(catalogue: Catalogue, name: str, draws: int, encoded: int) -> None:
    batch = make_batch([0, 1, 2, 3])
    for pool, share in (("example", 1), ("shared", 4)):
        drawing = sampler(name, catalogue, pool=pool, **SMALL[name])
        ids = drawing.propose(batch, unit(4, 4), generator_of(0)).ids
        assert drawing.draws_per_example(batch) == draws
        assert drawing.encodings_per_example(batch) == encoded / share == ids.numel() / 4


@pytest.mark.parametrize(
    "group",
    [
        {"sampler": "dns", "candidates": 4, "top": 5},
        {"sampler": "simans", "candidates": 4, "num_negatives": 5},
        {"sampler": "fairneg", "candidates": 4, "num_negatives": 5},
        {"sampler": "mochi", "candidates": 4, "hardest": 5},
        {"sampler": "ahns", "power": 1.0},
    ],
)
def test_senseless_keys_are_refused(group: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"train\.negatives\.0"):
        resolve([group])
