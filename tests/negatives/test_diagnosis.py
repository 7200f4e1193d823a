"""Every figure of the diagnosis against a naive computation, and that looking changes nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from esans.negatives.base import Context, Terms
from esans.negatives.diagnosis import Later, diagnose, quantiles
from esans.negatives.groups import NegativeGroups
from esans.negatives.registry import build_samplers, resolve
from esans.negatives.tables import Catalogue
from tests.negatives.conftest import context_of, generator_of, loss_of, make_batch, temperature_of

NO = -math.inf
UNIFORM = {"sampler": "uniform", "num_negatives": 3}


def unit(rows: Sequence[Sequence[float]]) -> Tensor:
    return torch.nn.functional.normalize(torch.tensor(rows), dim=-1)


@pytest.fixture
def context() -> Context:
    """Three users in the plane, at distances 0, sqrt 2 and 0 from their positives; the last row is padding."""
    batch = make_batch([0, 1, 2], [[0, 9], [1], [2]])
    batch.weight[2] = 0
    return context_of(batch, unit([[1.0, 0], [1, 0], [0, 1]]), unit([[1.0, 0], [0, 1], [0, 1]]))


def terms_of() -> list[Terms]:
    """Draws of each row, draws shared by the rows, and virtual terms; positive scores are 1, 0 and 1."""
    own = Terms(
        "own",
        torch.tensor([[0.5, 0.25, 0.5, 0.9], [0.5, 0.5, -0.5, 0.0], [0.0, 0, 0, 0]]),
        torch.tensor([[True, True, True, False], [True, True, False, False], [True] * 4]),
        torch.tensor([[5, 6, 5, 9], [7, 7, 1, 1], [3, 3, 3, 3]]),
    )
    shared = Terms(
        "shared",
        torch.tensor([[0.0, 0.1, 0.0], [-0.5, 0.25, -0.5], [0.0, 0, 0]]),
        torch.tensor([[True, True, True], [True, True, True], [True, True, True]]),
        torch.tensor([6, 8, 6]),
    )
    virtual = Terms("own_virtual", torch.tensor([[0.75], [0.25], [0.0]]), torch.tensor([[True], [False], [True]]), kind="semantic")
    return [own, shared, virtual]


def logits_of(terms: Sequence[Terms]) -> list[Tensor]:
    return [group.scores.masked_fill(~group.valid, NO) for group in terms]


# User 0 later chooses 5, 9 (which it knows: never drawn) and 8; user 1 chooses 6; the padding row's user chooses 3.
LATER = Later(torch.tensor([0, 1, 2]), torch.tensor([[5, 9, 8], [6, -1, -1], [3, -1, -1]], dtype=torch.int32))


def figures_of(context: Context, catalogue: Catalogue, later: Later | None = LATER, terms: list[Terms] | None = None) -> dict[str, float]:
    terms = terms or terms_of()
    samplers = build_samplers(resolve([UNIFORM]), catalogue)
    return {name: value.item() for name, value in diagnose(terms, logits_of(terms), samplers, context, later).items()}


def test_hardness_is_the_gap_to_the_positive_over_live_terms(context: Context, catalogue: Catalogue) -> None:
    figures = figures_of(context, catalogue)
    own = torch.tensor([-0.5, -0.75, -0.5, 0.5, 0.5])
    for name, share in (("p10", 0.1), ("p50", 0.5), ("p90", 0.9)):
        assert figures[f"hardness_own_{name}"] == pytest.approx(torch.quantile(own, share).item())
    assert figures["hardness_own_virtual_p50"] == pytest.approx(-0.25), "row 0 alone has a live virtual term"
    shared = [-1, -0.9, -1, -0.5, 0.25, -0.5]
    assert figures["hardness"] == pytest.approx((own.sum().item() + sum(shared) - 0.25) / 12)


def test_false_negatives_are_live_draws_that_the_user_chooses_later(context: Context, catalogue: Catalogue) -> None:
    figures = figures_of(context, catalogue)
    items = catalogue.num_items
    # own: item 5 twice among the 3 live draws of row 0, none of the 2 of row 1. shared: 8 in row 0, 6 twice in row 1.
    assert figures["false_negative_rate_own"] == pytest.approx(2 / 5)
    assert figures["false_negative_rate_shared"] == pytest.approx(3 / 6)
    # Row 0 may draw all items but 0 and 9, and looks for 2 of them; row 1 all but one, and looks for 1.
    chance = {"own": (3 * 2 / (items - 2) + 2 * 1 / (items - 1)) / 5, "shared": (3 * 2 / (items - 2) + 3 * 1 / (items - 1)) / 6}
    for name, expected in chance.items():
        assert figures[f"false_negative_lift_{name}"] == pytest.approx(figures[f"false_negative_rate_{name}"] / expected)
    weights = figures["share_own"], figures["share_shared"]
    assert figures["false_negative_rate"] == pytest.approx((weights[0] * 2 / 5 + weights[1] * 3 / 6) / sum(weights))
    assert not any("own_virtual" in name for name in figures if name.startswith(("false_negative", "duplicates")))


def test_mass_effective_number_and_shares_are_those_of_the_softmax_over_live_negatives(context: Context, catalogue: Catalogue) -> None:
    figures = figures_of(context, catalogue)
    rows = torch.cat(logits_of(terms_of()), dim=1)[:2].softmax(1)
    entropy = [-sum(p * math.log(p) for p in row if p > 0) for row in rows.tolist()]
    assert figures["effective_negatives"] == pytest.approx(sum(math.exp(value) for value in entropy) / 2)
    # Columns: own 0 .. 3, shared 4 .. 6, virtual 7.
    assert figures["share_own"] == pytest.approx(rows[:, :4].sum().item() / 2)
    false = rows[0, 0] + rows[0, 2] + rows[0, 5] + rows[1, 4] + rows[1, 6]
    assert figures["false_negative_mass"] == pytest.approx(false.item() / 2)


def test_repeats_count_once_they_were_met_in_the_row(context: Context, catalogue: Catalogue) -> None:
    figures = figures_of(context, catalogue)
    assert figures["duplicates_per_row_own"] == pytest.approx(2 / 5), "5 again in row 0, 7 again in row 1"
    assert figures["duplicates_per_row_shared"] == pytest.approx(2 / 6), "6 again in both rows"


def test_alignment_and_uniformity_follow_their_definition(context: Context, catalogue: Catalogue) -> None:
    figures = figures_of(context, catalogue)
    assert figures["alignment"] == pytest.approx((0 + 2) / 2)
    assert figures["uniformity_users"] == pytest.approx(0, abs=1e-6), "both users lie in one point"
    assert figures["uniformity_items"] == pytest.approx(-2 * 2), "two items at a squared distance of 2"
    assert figures["encodings_per_example"] == 3


def test_what_cannot_be_measured_is_nan_and_spoils_nothing_else(context: Context, catalogue: Catalogue) -> None:
    terms = terms_of()
    terms.append(Terms("dead", torch.zeros(3, 2), torch.zeros(3, 2, dtype=torch.bool), torch.full((3, 2), 4)))
    with_dead, without = figures_of(context, catalogue, terms=terms), figures_of(context, catalogue)
    assert {name: with_dead[name] for name in without} == pytest.approx(without)
    assert with_dead["share_dead"] == 0
    assert all(math.isnan(with_dead[name]) for name in with_dead if name not in without and name != "share_dead")
    nobody = Later(torch.tensor([77]), torch.tensor([[5]], dtype=torch.int32))
    assert math.isnan(figures_of(context, catalogue, nobody)["false_negative_rate"])
    assert "false_negative_rate" not in figures_of(context, catalogue, None)


def test_groups_of_one_name_are_told_apart(context: Context, catalogue: Catalogue) -> None:
    own, shared, _ = terms_of()
    shared.name = "own"
    figures = figures_of(context, catalogue, terms=[own, shared])
    assert figures["share_own"] + figures["share_own_2"] == pytest.approx(1)
    assert figures["false_negative_rate_own_2"] == pytest.approx(3 / 6)


def test_quantiles_of_many_terms_are_near_those_of_all() -> None:
    values = torch.randn(1000, 1024, generator=generator_of(0)) + torch.arange(1024) / 512
    live = torch.rand(1000, 1024, generator=generator_of(1)) < 0.5
    found = quantiles(values, live, [0.1, 0.5, 0.9])
    ranked = values[live].sort().values
    for value, share in zip(found, (0.1, 0.5, 0.9), strict=True):
        below = torch.searchsorted(ranked, value).item() / len(ranked)
        assert below == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("shared", [False, True])
def test_uniform_draws_meet_later_positives_as_often_as_chance_says(catalogue: Catalogue, shared: bool) -> None:
    rows = 64
    targets = [row % catalogue.num_items for row in range(rows)]
    batch = make_batch(targets, [sorted({target, 3}) for target in targets])
    items = torch.rand(rows, catalogue.num_items, generator=generator_of(5)).argsort(1)[:, :4]
    later = Later(torch.arange(rows), items.to(torch.int32))
    sampler = build_samplers(resolve([{"sampler": "uniform", "num_negatives": 20_000, "shared": shared}]), catalogue)
    vectors = unit([[1.0, 0.0]]).expand(rows, 2)
    context = context_of(batch, vectors, vectors)
    drawn = sampler[0].propose(batch, vectors, generator_of(3))
    terms = [Terms("uniform", torch.zeros(rows, 20_000), drawn.valid, drawn.ids)]
    figures = diagnose(terms, logits_of(terms), sampler, context, later)
    assert figures["false_negative_lift_uniform"].item() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("groups", [["in_batch", "easy", "hard"], ["uniform", "in_batch"]])
def test_a_look_changes_neither_loss_nor_gradient_nor_the_random_numbers_that_follow(catalogue: Catalogue, groups: list[str]) -> None:
    def step(diagnosed: bool) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        module = NegativeGroups(
            build_samplers(resolve([{"sampler": name} for name in groups]), catalogue), loss_of(catalogue), temperature_of(catalogue), LATER
        )
        table = torch.randn(catalogue.num_items, 8, generator=generator_of(1)).requires_grad_()
        user = torch.nn.functional.normalize(torch.randn(6, 8, generator=generator_of(2)), dim=-1)

        def encode(ids: Sequence[Tensor]) -> list[Tensor]:
            return [torch.nn.functional.normalize(table, dim=-1)[part] for part in ids]

        generator = generator_of(0)
        result = module(make_batch([0, 3, 12, 30, 35, 40]), user, encode, generator, diagnose=diagnosed)
        result.loss_B.mean().backward()
        assert table.grad is not None
        return result.loss_B, table.grad, torch.rand(3, generator=generator), result.figures

    plain, looked = step(False), step(True)
    assert all(torch.equal(one, two) for one, two in zip(plain[:3], looked[:3], strict=True))
    assert not plain[3]
    assert all(torch.isfinite(value) and not value.requires_grad for value in looked[3].values())
