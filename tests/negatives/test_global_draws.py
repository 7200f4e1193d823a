"""Global samplers beside uniform and in-batch, and draws by category: stated distributions and unbroken masks (METHOD 6)."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from esans.errors import ConfigError
from esans.negatives.base import Batch, Sampler
from esans.negatives.clusters import first_of_each
from esans.negatives.registry import build_samplers, resolve
from esans.negatives.tables import Catalogue
from tests.negatives.conftest import context_of, generator_of, make_batch

ROWS, DIM = 20_000, 4

# Codes of the 41 items of the `catalogue` fixture: 0 is missing, 3 a category of its own.
CATEGORIES = torch.tensor([1] * 12 + [2] * 20 + [0] * 6 + [3] + [1] * 2)


@pytest.fixture
def rich(catalogue: Catalogue) -> Catalogue:
    """The catalogue with a side column and vectors of 4 dimensions."""
    assert len(CATEGORIES) == catalogue.num_items
    return dataclasses.replace(catalogue, dim=DIM, side={"category": CATEGORIES, "price": CATEGORIES})


def sampler(name: str, catalogue: Catalogue, **keys: object) -> Sampler:
    return build_samplers(resolve([{"sampler": name, **keys}]), catalogue)[0]


def unit(rows: int, seed: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(rows, DIM, generator=generator_of(seed)), dim=-1)


def taught(drawing: Sampler, catalogue: Catalogue, temperature: float = 0.3) -> Sampler:
    """The sampler after a few steps, in each of which every item was once a positive with its fixed vector."""
    vectors = unit(catalogue.num_items, 3)
    batch = make_batch(list(range(catalogue.num_items)))
    for _ in range(3):
        drawing.wait(context_of(batch, positive=vectors, temperature=torch.tensor(temperature)))
    return drawing


def expected_counts(drawing: Sampler, batch: Batch, user: Tensor, num_items: int) -> Tensor:
    """(N,) expected draws of one example, for rows that are all alike."""
    log_expected = drawing.log_expected_count(context_of(batch, user), torch.arange(num_items))
    assert log_expected is not None
    per_row = log_expected.expand(len(batch), -1)
    assert torch.equal(per_row[0], per_row[-1])
    return per_row[0].double().exp()


@pytest.mark.parametrize("target", [0, 12, 20, 30])
@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("popularity", {"num_negatives": 6}),
        ("popularity", {"num_negatives": 3, "power": 0}),
        ("popularity", {"num_negatives": 3, "power": 1.5}),
        ("midx", {"num_negatives": 4}),
        ("midx", {"num_negatives": 4, "temperature": 2.0}),
        ("category", {"num_negatives": 3, "column": "category"}),
    ],
)
def test_the_counts_of_draws_match_the_expected_counts_before_masks(
    rich: Catalogue, name: str, keys: dict[str, object], target: int
) -> None:
    drawing = taught(sampler(name, rich, **keys), rich)
    batch, user = make_batch([target] * ROWS), unit(1, target).expand(ROWS, -1)
    ids = drawing.propose(batch, user, generator_of(7)).ids
    expected = expected_counts(drawing, batch, user, rich.num_items)
    assert expected.sum().item() == pytest.approx(drawing.draws_per_example(batch), rel=1e-5)
    live = expected > 0
    for column in range(ids.shape[1]):
        drawn = torch.bincount(ids[:, column], minlength=rich.num_items).double()
        assert drawn[~live].sum() == 0
        share = expected[live] / expected.sum()
        # One draw of each row: independent of each other. Cells that expect few draws are put together.
        assert chisquare(*_coarse(drawn[live], share * ROWS)).pvalue > 1e-4


def _coarse(drawn: Tensor, expected: Tensor) -> tuple[object, object]:
    few = expected < 5
    if few.any():
        drawn = torch.cat([drawn[~few], drawn[few].sum()[None]])
        expected = torch.cat([expected[~few], expected[few].sum()[None]])
    return drawn.numpy(), (expected * (drawn.sum() / expected.sum())).numpy()


def test_items_without_a_count_are_drawn_only_at_power_zero(rich: Catalogue) -> None:
    assert rich.target_probability_N[0] == 0
    batch = make_batch([5] * 4000)
    for power, met in ((0.75, False), (0, True)):
        ids = sampler("popularity", rich, power=power, num_negatives=8).propose(batch, torch.zeros(4000, DIM), generator_of(2)).ids
        assert bool((ids == 0).any()) == met
    nobody = dataclasses.replace(rich, target_probability_N=torch.zeros(rich.num_items))
    with pytest.raises(ConfigError, match=r"popularity\.power = 0\.75: no item was ever a positive; take power = 0\."):
        sampler("popularity", nobody)


def test_popularity_in_numbers() -> None:
    # Counts 1, 16, 81 and 0 to the power 0.75 are 1, 8, 27 and 0: Q = 1/36, 8/36, 27/36, 0; 10 draws each.
    counts = torch.tensor([1.0, 16.0, 81.0, 0.0])
    drawing = sampler("popularity", Catalogue(4, counts / counts.sum()), num_negatives=10)
    found = drawing.log_expected_count(context_of(make_batch([0])), torch.arange(4))
    assert found is not None
    assert torch.allclose(found.exp(), torch.tensor([10 / 36, 80 / 36, 270 / 36, 0]))


def test_a_shared_pool_is_one_row_for_all_and_costs_its_share(rich: Catalogue) -> None:
    batch = make_batch([1, 2, 3, 4])
    alone, shared = sampler("popularity", rich, num_negatives=16), sampler("popularity", rich, num_negatives=16, shared=True)
    drawn = shared.propose(batch, torch.zeros(4, DIM), generator_of(0))
    assert drawn.ids.shape == (16,)
    assert drawn.valid.shape == (4, 16)
    assert (alone.encodings_per_example(batch), shared.encodings_per_example(batch)) == (16, 4)
    assert alone.draws_per_example(batch) == shared.draws_per_example(batch) == 16


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("popularity", {}),
        ("popularity", {"shared": True, "num_negatives": 100}),
        ("in_batch", {"estimate": "streaming"}),
        ("midx", {}),
        ("cross_batch", {"capacity": 1000}),
        ("category", {"column": "category"}),
        ("full_softmax", {}),
    ],
)
def test_the_positive_and_known_positives_are_never_live_negatives(rich: Catalogue, name: str, keys: dict[str, object]) -> None:
    known = [[0, 1, 2, 7, 20], [28, 29], [], list(range(14, 21))] * 50
    targets = [3, 30, 5, 12] * 50
    batch = make_batch(targets, known)
    drawing = taught(sampler(name, rich, **keys), rich)
    negatives = drawing.propose(batch, unit(len(batch), 1), generator_of(1))
    ids = negatives.ids.expand(len(batch), -1) if negatives.ids.dim() == 1 else negatives.ids
    assert ((negatives.ids >= 0) & (negatives.ids < rich.num_items)).all(), "masked ids stay legal"
    for row in range(len(batch)):
        live = ids[row][negatives.valid[row]]
        assert len(live)
        assert not torch.isin(live, torch.tensor([*known[row], targets[row]])).any()


def test_midx_prefers_the_clusters_that_a_user_scores_high_and_forgets_no_assigned_item(rich: Catalogue) -> None:
    drawing = taught(sampler("midx", rich, num_negatives=4, temperature=0.2), rich)
    tables = rich.clusters
    assert tables is not None
    vectors = unit(rich.num_items, 3)
    members = tables.item_primary_N == 1
    mean = vectors[members].mean(0, keepdim=True)
    user = torch.nn.functional.normalize(mean, dim=-1)
    # Q(i | u) = softmax_c(u . mean_c / 0.2 + log size_c) / size_c, written out.
    scores = torch.stack([(user @ vectors[tables.item_primary_N == place].mean(0)) for place in range(4)]).flatten() / 0.2
    size = tables.primary_count_P
    chance = torch.softmax(scores + size.log(), 0) / size
    expected = torch.where(tables.item_primary_N >= 0, 4 * chance[tables.item_primary_N.clamp_min(0)], 0.0)
    found = expected_counts(drawing, make_batch([0]), user, rich.num_items)
    assert torch.allclose(found.float(), expected, atol=1e-5)
    assert found[members].min() > 4 / rich.num_items
    assert (found[tables.item_primary_N >= 0] > 0).all()
    assert (found[tables.item_primary_N < 0] == 0).all()


def test_midx_answers_for_the_ids_of_each_example_as_for_shared_ones(rich: Catalogue) -> None:
    drawing = taught(sampler("midx", rich), rich)
    batch, user = make_batch([1, 2, 3]), unit(3, 4)
    everything = drawing.log_expected_count(context_of(batch, user), torch.arange(rich.num_items))
    ids = torch.randint(0, rich.num_items, (3, 9), generator=generator_of(1))
    own = drawing.log_expected_count(context_of(batch, user), ids)
    assert everything is not None
    assert own is not None
    assert torch.equal(own, everything.gather(1, ids))


@given(codes=st.lists(st.integers(0, 4), min_size=2, max_size=30), seed=st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_a_draw_by_category_shares_the_category_and_is_never_the_positive(codes: list[int], seed: int) -> None:
    code_N = torch.tensor(codes)
    num_items = len(codes)
    drawing = sampler("category", Catalogue(num_items, torch.full((num_items,), 1 / num_items), side={"c": code_N}), column="c")
    batch = make_batch(list(range(num_items)))
    negatives = drawing.propose(batch, torch.zeros(num_items, 1), generator_of(seed))
    alone = torch.tensor([code == 0 or codes.count(code) == 1 for code in codes])
    assert (negatives.valid.any(1) == ~alone).all()
    assert (negatives.valid == (first_of_each(negatives.ids) & ~alone[:, None])).all()
    assert (code_N[negatives.ids] == code_N[:, None])[~alone].all()
    assert (negatives.ids != batch.target[:, None])[~alone].all()
    counts = drawing.log_expected_count(context_of(batch), torch.arange(num_items))
    assert counts is not None
    assert torch.allclose(counts.exp().sum(1), torch.where(alone, 0.0, 5.0))


def test_draws_by_category_are_weighed_not_corrected_and_need_an_existing_column(rich: Catalogue) -> None:
    assert sampler("category", rich, column="price").kind == "semantic"
    with pytest.raises(ConfigError) as error:
        sampler("category", rich, column="brand")
    assert str(error.value) == "train.negatives: category.column = 'brand' is no side column. Known: category, price."
    with pytest.raises(ConfigError, match=r"Known: none; name some in prepare\.items\.side\."):
        sampler("category", Catalogue(2, torch.ones(2) / 2), column="brand")


def test_full_softmax_is_every_item_once_and_refuses_a_large_catalogue(rich: Catalogue) -> None:
    batch = make_batch([1, 2, 3, 4], [[5, 6], [], [7], []])
    drawing = sampler("full_softmax", rich)
    negatives = drawing.propose(batch, torch.zeros(4, DIM), generator_of(0))
    assert negatives.ids.tolist() == list(range(41))
    assert torch.equal(negatives.valid, ~batch.knows(negatives.ids))
    assert (expected_counts(drawing, batch, torch.zeros(4, DIM), 41) == 1).all()
    assert drawing.encodings_per_example(batch) == 41 / 4
    with pytest.raises(ConfigError) as error:
        sampler("full_softmax", Catalogue(300_000, torch.full((300_000,), 1 / 300_000)))
    assert str(error.value) == (
        "train.negatives: full_softmax scores all 300,000 items for every example, above max_items = 200,000. "
        "Take in_batch, or uniform with shared = true, beside others; or raise max_items."
    )


def test_full_softmax_alone_is_uncorrected(rich: Catalogue) -> None:
    from esans.negatives.loss import pooled_correction

    drawing = sampler("full_softmax", rich)
    correction = pooled_correction([drawing], context_of(make_batch([0, 1])), torch.arange(41))
    assert torch.allclose(correction, torch.zeros(41), atol=1e-6)
    assert math.isclose(drawing.draws_per_example(make_batch([0])), 41)
