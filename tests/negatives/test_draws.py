"""Draws follow their stated distribution and never break a mask."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from esans.config import config as config_section
from esans.errors import ConfigError
from esans.negatives.base import Batch, Sampler
from esans.negatives.cluster_draws import ClusterDraws
from esans.negatives.clusters import draw_hard, first_of_each, hard_pool_sizes
from esans.negatives.config import SamplerConfig
from esans.negatives.registry import LOSSES, SAMPLERS, TEMPERATURES, build_samplers, known_samplers, resolve
from esans.negatives.tables import Catalogue, ClusterTables
from tests.negatives.conftest import context_of, generator_of, make_batch, make_clusters

ROWS = 20_000


def sampler(name: str, catalogue: Catalogue, **keys: object) -> Sampler:
    return build_samplers(resolve([{"sampler": name, **keys}]), catalogue)[0]


def repeated(target: int, rows: int = ROWS) -> Batch:
    return make_batch([target] * rows)


@pytest.mark.parametrize("target", [0, 12, 20, 38])
@pytest.mark.parametrize(
    ("name", "keys"),
    [("uniform", {"num_negatives": 6}), ("easy", {"clusters": 2, "per_cluster": 3}), ("easy", {"clusters": 1}), ("hard", {})],
)
def test_the_counts_of_draws_match_the_expected_counts_before_masks(
    catalogue: Catalogue, name: str, keys: dict[str, int], target: int
) -> None:
    drawing = sampler(name, catalogue, **keys)
    batch = repeated(target)
    ids = drawing.propose(batch, torch.zeros(ROWS, 1), generator_of(7)).ids.reshape(ROWS, -1)
    log_expected = drawing.log_expected_count(context_of(batch), torch.arange(catalogue.num_items))
    assert log_expected is not None
    expected = (log_expected.exp() if log_expected.dim() == 1 else log_expected[0].exp()).double() * ROWS
    # One draw of each row only: rows are independent, the draws of one row are not.
    column = int(torch.randint(ids.shape[1], (1,), generator=generator_of(target)))
    drawn = torch.bincount(ids.flatten(), minlength=catalogue.num_items).double()
    assert drawn[expected == 0].sum() == 0
    assert torch.allclose(drawn.sum(), expected.sum(), rtol=1e-4)
    live = expected > 0
    share = expected[live] / expected.sum()
    if name == "easy":
        relative = (drawn[live] / expected[live] - 1).abs()
        assert relative.max() < 5 / expected[live].min().sqrt() + 0.02
    else:
        single = torch.bincount(ids[:, column], minlength=catalogue.num_items).double()
        assert chisquare(single[live].numpy(), (share * ROWS).numpy()).pvalue > 1e-4


def test_the_expected_count_of_two_clusters_is_not_twice_the_single_draw(catalogue: Catalogue) -> None:
    tables = catalogue.clusters
    assert tables is not None
    p = tables.transitions_PP[0].double()
    exact = torch.stack([p[j] * (1 + sum(p[k] / (1 - p[k]) for k in range(4) if k not in (0, j))) for j in range(1, 4)])
    drawn = ClusterDraws(tables.log_transitions()).draw(torch.zeros(200_000, dtype=torch.long), 2, generator_of(3))
    measured = torch.bincount(drawn.flatten(), minlength=4)[1:].double() / 200_000
    assert torch.allclose(measured, exact, atol=0.005)
    assert not torch.allclose(2 * p[1:], exact, atol=0.005)


@pytest.mark.parametrize("sharpness", [1.0, 40.0])
def test_clusters_are_drawn_one_after_the_other_in_proportion_to_what_is_left_however_sharp_the_chances(sharpness: float) -> None:
    """With the sharper chances, after the first draw only 1e-17 of the mass is left, and 1e-35 after the second."""
    log_chance = torch.log_softmax(-sharpness * torch.tensor([[torch.inf, 3.0, 1.0, 2.0, 1.01]]), dim=1)
    rows = 100_000
    drawn = ClusterDraws(log_chance.expand(5, -1)).draw(torch.zeros(rows, dtype=torch.long), 4, generator_of(7))
    assert (drawn.sort(1).values == torch.arange(1, 5)).all()
    p = log_chance[0].double().exp()
    for first, second, third in itertools.permutations(range(1, 5), 3):
        left, last = (p[[j for j in range(1, 5) if j not in gone]].sum() for gone in ((first,), (first, second)))
        expected = (p[first] * p[second] / left * p[third] / last).item()
        measured = (drawn[:, :3] == torch.tensor([first, second, third])).all(1).double().mean().item()
        assert measured == pytest.approx(expected, abs=5 * math.sqrt(expected / rows) + 1e-4)


@given(
    cells=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=3, max_size=6),
    seed=st.integers(0, 2**31),
    clusters=st.integers(1, 2),
)
@settings(max_examples=40, deadline=None)
def test_easy_draws_leave_the_primary_of_the_positive_and_repeat_no_cluster(cells: list[list[int]], seed: int, clusters: int) -> None:
    tables = make_clusters(cells)
    num_items = len(tables.item_cell_N)
    drawing = sampler("easy", Catalogue(num_items, torch.full((num_items,), 1 / num_items), tables), clusters=clusters, per_cluster=4)
    batch = make_batch(list(range(num_items)))
    ids = drawing.propose(batch, torch.zeros(num_items, 1), generator_of(seed)).ids
    primaries = tables.item_primary_N[ids]
    assert (primaries == primaries[:, :, :1]).all()
    assert (primaries[:, :, 0] != tables.item_primary_N[batch.target][:, None]).all()
    assert clusters == 1 or (primaries[:, 0, 0] != primaries[:, 1, 0]).all()


@given(
    cells=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=2, max_size=5),
    seed=st.integers(0, 2**31),
    top_up=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_every_hard_negative_shares_the_primary_and_not_the_secondary_unless_its_pool_was_topped_up(
    cells: list[list[int]], seed: int, top_up: bool
) -> None:
    fallbacks = [[(place + 1) % len(cells) if top_up else -1 for _ in row] for place, row in enumerate(cells)]
    tables = make_clusters(cells, fallbacks)
    positives = torch.arange(len(tables.item_cell_N)).repeat(5)
    ids, valid = draw_hard(tables, positives, 6, generator_of(seed))
    same_primary = tables.item_primary_N[ids] == tables.item_primary_N[positives][:, None]
    other_cell = tables.item_cell_N[ids] != tables.item_cell_N[positives][:, None]
    fallback = tables.item_primary_N[ids] == tables.cell_fallback_S[tables.item_cell_N[positives]][:, None]
    assert ((same_primary & other_cell) | fallback)[valid].all()
    own, extra = hard_pool_sizes(tables, positives)
    assert (valid == (own + extra > 0)).all()
    if top_up:
        assert valid.all()


@pytest.mark.parametrize("name", ["uniform", "in_batch", "easy", "hard"])
def test_the_positive_and_known_positives_are_never_live_negatives(catalogue: Catalogue, name: str) -> None:
    known = [[0, 1, 2, 7, 20], [33, 34], [], list(range(10, 18))] * 200
    targets = [0, 33, 5, 12] * 200
    batch = make_batch(targets, known)
    negatives = sampler(name, catalogue).propose(batch, torch.zeros(len(batch), 1), generator_of(1))
    ids = negatives.ids.expand(len(batch), -1) if negatives.ids.dim() == 1 else negatives.ids.reshape(len(batch), -1)
    valid = negatives.valid.reshape(len(batch), -1)
    assert valid.any()
    for row in range(0, len(batch), 37):
        forbidden = torch.tensor([*known[row], targets[row]])
        assert not torch.isin(ids[row][valid[row]], forbidden).any()


@pytest.mark.parametrize("name", ["easy", "hard"])
def test_semantic_draws_have_no_live_duplicates_in_a_row(catalogue: Catalogue, name: str) -> None:
    negatives = sampler(name, catalogue).propose(make_batch([3] * 500), torch.zeros(500, 1), generator_of(5))
    ids, valid = negatives.ids.reshape(500, -1), negatives.valid.reshape(500, -1)
    assert not valid.all(), "the pools are small: some draw must have repeated"
    for row in range(500):
        live = ids[row][valid[row]]
        assert len(live) == len(live.unique())


@pytest.mark.parametrize("name", ["easy", "hard"])
def test_a_positive_without_a_cluster_has_no_semantic_negative(catalogue: Catalogue, clusters: ClusterTables, name: str) -> None:
    outside = int((clusters.item_cell_N < 0).nonzero()[0])
    negatives = sampler(name, catalogue).propose(make_batch([outside, 0]), torch.zeros(2, 1), generator_of(5))
    assert not negatives.valid[0].any()
    assert negatives.valid[1].any()
    assert (negatives.ids >= 0).all()
    assert (negatives.ids < catalogue.num_items).all()


@given(st.lists(st.lists(st.integers(0, 4), min_size=5, max_size=5), min_size=1, max_size=5))
def test_the_first_of_each_id_in_a_row_is_marked(rows: list[list[int]]) -> None:
    expected = [[value not in row[:place] for place, value in enumerate(row)] for row in rows]
    assert first_of_each(torch.tensor(rows)).tolist() == expected


@given(st.integers(0, 2**31), st.integers(1, 12))
@settings(deadline=None)
def test_membership_equals_the_naive_search(seed: int, width: int) -> None:
    random = generator_of(seed)
    known = [sorted(set(torch.randint(0, 15, (width,), generator=random).tolist())) for _ in range(6)]
    batch = make_batch(torch.randint(0, 15, (6,), generator=random).tolist(), known, width=12)
    ids = torch.randint(0, 15, (6, 4, 3), generator=random)
    naive = [[[value in known[row] or value == int(batch.target[row]) for value in line] for line in ids[row].tolist()] for row in range(6)]
    assert batch.knows(ids).tolist() == naive
    pool = torch.randint(0, 15, (9,), generator=random)
    table = replace(batch, num_items=15)
    assert table.knows(pool).tolist() == batch.knows(pool).tolist()
    shared = [[value in known[row] or value == int(batch.target[row]) for value in pool.tolist()] for row in range(6)]
    assert batch.knows(pool).tolist() == shared


def test_an_unknown_sampler_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"train\.negatives: unknown sampler 'unifrom'\. Known: .*easy, .*hard, .*uniform; or package"):
        resolve([{"sampler": "unifrom"}])
    assert {"uniform", "in_batch", "easy", "hard"} <= set(known_samplers())


def test_a_wrong_key_of_a_sampler_names_the_group_and_the_key() -> None:
    with pytest.raises(ConfigError) as error:
        resolve([{"sampler": "uniform"}, {"sampler": "hard", "num_negative": 3}])
    assert str(error.value).startswith("train.negatives.1.num_negative: unknown key. Did you mean 'num_negatives'?")


def test_mixing_bounds_out_of_order_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.negatives\.0: mix_high = 0\.1 is below mix = 0\.3"):
        resolve([{"sampler": "hard", "mix": 0.3, "mix_high": 0.1}])


def test_wrong_keys_of_the_projects_own_samplers_are_named_before_torch_is_loaded() -> None:
    groups = [{"sampler": "hard", "mix": 3}, {"sampler": "unifrom"}, {"sampler": "uniform", "nmu": 1}]
    for group in groups:
        code = f"""
import sys
from esans.errors import ConfigError
from esans.negatives.registry import resolve
try:
    resolve([{group!r}])
except ConfigError as error:
    print(error)
print("torch" in sys.modules)
"""
        lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
        assert lines[0].startswith("train.negatives")
        assert lines[-1] == "False"


def test_every_config_belongs_to_the_sampler_of_its_file() -> None:
    for registry in (SAMPLERS, LOSSES, TEMPERATURES):
        for name, config in registry.configs.items():
            assert registry.find(name).Config is config  # type: ignore[attr-defined]
        assert registry.known() == sorted(registry.configs)


class Brought(Sampler):
    """A sampler from outside the project, with a Config of its own."""

    @config_section
    class Config(SamplerConfig):
        """Its keys."""

        depth: int = 3
        """How deep."""


def test_a_sampler_from_outside_brings_its_own_keys() -> None:
    name = f"{__name__}:Brought"
    assert resolve([{"sampler": name}]) == [{"sampler": name, "depth": 3, "enters_at_epoch": 0.0}]
    with pytest.raises(ConfigError, match=r"train\.negatives\.0\.dept: unknown key\. Did you mean 'depth'"):
        resolve([{"sampler": name, "dept": 1}])


@pytest.mark.parametrize("name", ["easy", "hard"])
def test_a_semantic_sampler_without_cluster_tables_says_which_stage_is_missing(name: str) -> None:
    with pytest.raises(ConfigError) as error:
        sampler(name, Catalogue(3, torch.full((3,), 1 / 3)))
    assert str(error.value) == f"train.negatives: the {name} sampler needs cluster tables; run the cluster stage."


@pytest.mark.parametrize("name", ["easy", "hard"])
def test_the_positives_nearest_items_by_co_occurrence_are_spared(catalogue: Catalogue, name: str) -> None:
    num_items = catalogue.num_items
    nearest = torch.randint(-1, num_items, (num_items, 6), generator=generator_of(3))
    asked = replace(catalogue, neighbours=lambda count: nearest[:, :count])
    batch = make_batch(list(range(num_items)) * 40)
    plain = sampler(name, catalogue).propose(batch, torch.zeros(len(batch), 1), generator_of(9))
    spared = sampler(name, asked, spare_neighbours=6).propose(batch, torch.zeros(len(batch), 1), generator_of(9))
    assert torch.equal(plain.ids, spared.ids)
    near = (spared.ids.flatten(1)[:, :, None] == nearest[batch.target][:, None, :]).any(-1).view_as(spared.ids)
    assert (plain.valid & near).any()
    assert torch.equal(spared.valid, plain.valid & ~near)


def test_sparing_neighbours_without_an_item_graph_names_the_stage(catalogue: Catalogue) -> None:
    with pytest.raises(ConfigError, match=r"hard\.spare_neighbours needs the item graph; run the features stage"):
        sampler("hard", catalogue, spare_neighbours=5)
