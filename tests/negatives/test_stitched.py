"""Samplers whose negatives lie in the shards: the masks and the mixing of draws made on the device."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from esans.columns import EASY_IDS, EXPOSED, HARD_IDS, PADDING
from esans.errors import ConfigError
from esans.negatives.base import Batch, Negatives, Sampler
from esans.negatives.groups import NegativeGroups
from esans.negatives.registry import build_samplers, columns, resolve
from esans.negatives.tables import Catalogue
from tests.negatives.conftest import context_of, generator_of, loss_of, make_batch, temperature_of

ITEMS, DRAWS, CLUSTERS, PER_CLUSTER, HARD, SHOWN = 30, 3, 2, 4, 5, 6
SHAPES = {EASY_IDS: (DRAWS, CLUSTERS, PER_CLUSTER), HARD_IDS: (DRAWS, HARD), EXPOSED: (SHOWN,)}
COLUMNS = {"stitched_easy": EASY_IDS, "stitched_hard": HARD_IDS, "exposed": EXPOSED}
NAMES = list(COLUMNS)


def catalogue_of(**columns: tuple[int, ...]) -> Catalogue:
    return Catalogue(ITEMS, torch.full((ITEMS,), 1 / ITEMS), columns=columns)


def sampler(name: str, **keys: object) -> Sampler:
    return build_samplers(resolve([{"sampler": name, **keys}]), catalogue_of(**SHAPES))[0]


def batch_of(targets: list[int], known: list[list[int]] | None = None, seed: int = 0) -> Batch:
    """Any items at all in the columns: also known ones, the positive, repeats and padding."""
    batch = make_batch(targets, known)
    for column, shape in SHAPES.items():
        width = int(torch.tensor(shape).prod())
        batch.extra[column] = torch.randint(PADDING, ITEMS, (len(batch), width), generator=generator_of(seed))
    return batch


def propose(name: str, batch: Batch, seed: int = 0, **keys: object) -> Negatives:
    return sampler(name, **keys).propose(batch, torch.zeros(len(batch), 1), generator_of(seed))


@pytest.mark.parametrize("name", NAMES)
def test_each_sampler_names_the_column_it_reads(name: str) -> None:
    assert columns(resolve([{"sampler": "in_batch"}, {"sampler": name}, {"sampler": name}])) == (COLUMNS[name],)


@given(st.integers(0, 2**31), st.sampled_from(NAMES))
@settings(max_examples=40, deadline=None)
def test_live_negatives_are_stored_ones_and_neither_padding_nor_repeats_nor_known(seed: int, name: str) -> None:
    known = [[0, 3, 4], [], [7, 29], list(range(8))]
    batch = batch_of([3, 5, 7, 20], known, seed)
    negatives = propose(name, batch, seed)
    ids, valid = negatives.ids.reshape(4, -1), negatives.valid.reshape(4, -1)
    assert ((ids >= 0) & (ids < ITEMS)).all()
    for row in range(4):
        live = ids[row][valid[row]].tolist()
        assert len(live) == len(set(live))
        assert not set(live) & {PADDING, int(batch.target[row]), *known[row]}
        stored = batch.extra[COLUMNS[name]][row].view(-1, ids.shape[1]).tolist()
        expected = [set(draw) - {PADDING, int(batch.target[row]), *known[row]} for draw in stored]
        assert set(live) in expected, "one whole stored draw, less what is masked"


@pytest.mark.parametrize("name", ["stitched_easy", "stitched_hard"])
def test_every_stored_draw_is_taken_equally_often(name: str) -> None:
    batch = make_batch([29] * 6_000)
    shape = SHAPES[COLUMNS[name]]
    stored = torch.arange(DRAWS).repeat_interleave(int(torch.tensor(shape[1:]).prod()))
    batch.extra[COLUMNS[name]] = stored.expand(len(batch), -1)
    taken = propose(name, batch).ids.reshape(len(batch), -1)
    assert (taken == taken[:, :1]).all()
    assert chisquare(torch.bincount(taken[:, 0], minlength=DRAWS).numpy()).pvalue > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_an_example_without_any_stored_negative_has_none(name: str) -> None:
    batch = batch_of([1, 2])
    batch.extra[COLUMNS[name]][0] = PADDING
    assert not propose(name, batch).valid[0].any()


def test_the_latest_exposures_are_kept_where_fewer_are_wanted() -> None:
    batch = make_batch([20, 20])
    batch.extra[EXPOSED] = torch.tensor([[-1, 1, 2, 3, 4, 5], [-1, -1, -1, -1, -1, 9]])
    negatives = propose("exposed", batch, num_negatives=2)
    assert negatives.ids.tolist() == [[4, 5], [0, 9]]
    assert negatives.valid.tolist() == [[True, True], [False, True]]
    assert propose("exposed", batch, num_negatives=50).ids.shape == (2, SHOWN)


@pytest.mark.parametrize(("stitched", "name", "keys"), [("stitched_easy", "easy", {}), ("stitched_hard", "hard", {"mix": 0.3})])
def test_terms_are_those_of_the_same_draws_made_on_the_device(
    catalogue: Catalogue, stitched: str, name: str, keys: dict[str, float]
) -> None:
    batch = batch_of([3, 5, 7])
    negatives = propose(stitched, batch)
    unit = torch.nn.functional.normalize(torch.randn(3 + negatives.ids.numel() + 3, 8, generator=generator_of(2)), dim=-1)
    user, positive, vectors = unit[:3], unit[3:6], unit[6:].view(*negatives.ids.shape, 8)
    scores = torch.einsum("bd,b...d->b...", user, vectors)
    drawing = build_samplers(resolve([{"sampler": name, "log_weight": -1.0, **keys}]), catalogue)[0]
    found, expected = (
        one.refine(negatives, scores, context_of(batch, user, positive, generator=generator_of(4), negative_vectors=vectors))
        for one in (sampler(stitched, log_weight=-1.0, **keys), drawing)
    )
    assert [terms.name for terms in found] == [stitched, f"{stitched}_virtual"]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.valid, other.valid)
        assert (one.kind, one.log_weight) == ("semantic", other.log_weight)


def test_stitched_groups_compose_with_any_other_and_give_a_finite_loss() -> None:
    groups = resolve([{"sampler": "in_batch"}, *({"sampler": name} for name in NAMES)])
    catalogue = catalogue_of(**SHAPES)
    module = NegativeGroups(build_samplers(groups, catalogue), loss_of(catalogue), temperature_of(catalogue))
    batch = batch_of([3, 5, 7, 20])
    batch.extra[HARD_IDS][1] = PADDING
    table = torch.randn(ITEMS, 8, generator=generator_of(0), requires_grad=True)
    unit = torch.nn.functional.normalize(table, dim=-1)
    result = module(batch, unit[:4], lambda ids: [unit[part] for part in ids], generator_of(0), diagnose=True)
    result.loss_B.sum().backward()
    assert table.grad is not None
    assert torch.isfinite(table.grad).all()
    assert {f"share_{name}" for name in NAMES} <= set(result.figures)


@pytest.mark.parametrize(("name", "count"), [("stitched_easy", CLUSTERS * PER_CLUSTER), ("stitched_hard", HARD), ("exposed", SHOWN)])
def test_the_cost_is_what_the_shards_hold(name: str, count: int) -> None:
    batch = batch_of([3, 5])
    assert sampler(name).draws_per_example(batch) == sampler(name).encodings_per_example(batch) == count


@pytest.mark.parametrize(("name", "key"), [("stitched_easy", "stitch.draws"), ("stitched_hard", "stitch.draws"), ("exposed", "exposures")])
def test_a_column_that_the_shards_lack_is_asked_for_by_its_key(name: str, key: str) -> None:
    with pytest.raises(ConfigError) as error:
        build_samplers(resolve([{"sampler": name}]), catalogue_of())
    assert str(error.value) == f"train.negatives: the {name} sampler needs the column '{COLUMNS[name]}' in the shards: set shards.{key}."


@pytest.mark.parametrize("key", ["clusters", "per_cluster", "transition_temperature"])
def test_what_is_set_where_negatives_are_drawn_is_no_key_of_the_sampler(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^train\.negatives\.0\.{key}: unknown key\."):
        resolve([{"sampler": "stitched_easy", key: 2}])
