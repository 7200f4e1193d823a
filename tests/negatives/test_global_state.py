"""Samplers that keep state over steps: the queue of cross_batch, the means of midx, the streaming estimate of in_batch (METHOD 6)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from esans.errors import ConfigError
from esans.negatives.base import Negatives, Sampler
from esans.negatives.cross_batch import CrossBatch
from esans.negatives.groups import NegativeGroups
from esans.negatives.midx import Midx
from esans.negatives.registry import build_samplers, resolve
from esans.negatives.streaming import StreamingEstimate
from esans.negatives.tables import Catalogue
from tests.negatives.conftest import context_of, generator_of, loss_of, make_batch, temperature_of

DIM = 4


@pytest.fixture
def sized(catalogue: Catalogue) -> Catalogue:
    return dataclasses.replace(catalogue, dim=DIM)


def unit(rows: int, seed: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(rows, DIM, generator=generator_of(seed)), dim=-1)


def build(catalogue: Catalogue, *groups: dict[str, object]) -> list[Sampler]:
    return build_samplers(resolve(groups), catalogue)


def test_the_queue_holds_the_newest_positives_with_the_vectors_they_had(sized: Catalogue) -> None:
    (queue,) = build(sized, {"sampler": "cross_batch", "capacity": 5})
    assert isinstance(queue, CrossBatch)
    assert queue.log_expected_count(context_of(make_batch([1])), torch.tensor([3])).exp().item() == 0, "nothing is there yet"
    for step, targets in enumerate([[1, 2], [3, 4], [5, 6]]):
        batch = make_batch(targets)
        if step == 1:
            batch.weight[1] = 0
        queue.observe(context_of(batch, positive=unit(2, step)), torch.zeros(2))
    # Item 4 stood on padding: its place stays empty. Item 2 has fallen out.
    assert queue.ids_M.tolist() == [5, 6, 3, -1, 1]
    assert torch.equal(queue.vectors_MD[[0, 1, 2, 4]], torch.cat([unit(2, 2), unit(2, 1)[:1], unit(2, 0)[:1]]))
    batch = make_batch([6, 7], [[], [1]])
    negatives = queue.propose(batch, unit(2, 9), generator_of(0))
    assert negatives.valid.tolist() == [[True, False, True, False, True], [True, True, True, False, False]]
    assert (negatives.ids >= 0).all()
    assert negatives.vectors is not None
    assert torch.equal(negatives.vectors, queue.vectors_MD)
    # Four places are filled.
    counts = queue.log_expected_count(context_of(batch), torch.arange(sized.num_items)).exp()
    assert torch.allclose(counts, 4 * sized.target_probability_N)
    assert (queue.draws_per_example(batch), queue.encodings_per_example(batch)) == (5, 0)
    (restored,) = build(sized, {"sampler": "cross_batch", "capacity": 5})
    restored.load_state_dict(queue.state_dict())
    assert torch.equal(restored.ids_M, queue.ids_M)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"cross_batch\.capacity = 5 cannot hold one batch \(6 examples a process\)"):
        queue.observe(context_of(make_batch([1] * 6), positive=unit(6, 0)), torch.zeros(6))


def test_a_queue_fills_before_it_enters_and_nothing_of_it_is_encoded(sized: Catalogue) -> None:
    samplers = build(sized, {"sampler": "in_batch"}, {"sampler": "cross_batch", "capacity": 8, "enters_at_epoch": 1})
    groups = NegativeGroups(samplers, loss_of(sized), temperature_of(sized))
    table = unit(sized.num_items, 4).requires_grad_()
    calls = []

    def encode(ids: Sequence[Tensor]) -> list[Tensor]:
        calls.append(len(ids))
        return [table[part] for part in ids]

    shares = []
    for step, epoch in enumerate((0.0, 0.5, 1.0, 1.5)):
        user = unit(3, 10 + step).requires_grad_()
        result = groups(make_batch([1 + step, 12, 30]), user, encode, generator_of(step), epoch, diagnose=True)
        # The queue moves within the step, and the backward pass still finds what the step was scored with.
        result.loss_B.mean().backward()
        shares.append({name for name in result.figures if name.startswith("share_")})
    assert calls == [1, 1, 1, 1], "the positives only"
    assert shares == [{"share_in_batch"}] * 2 + [{"share_in_batch", "share_cross_batch"}] * 2
    assert samplers[1].ids_M.tolist() == [4, 12, 30, 3, 12, 30, 2, 12]  # type: ignore[union-attr,operator]


def test_a_queue_that_is_empty_when_it_enters_leaves_a_finite_loss(sized: Catalogue) -> None:
    groups = NegativeGroups(build(sized, {"sampler": "cross_batch", "capacity": 8}), loss_of(sized), temperature_of(sized))
    user, table = unit(3, 1).requires_grad_(), unit(sized.num_items, 4)
    loss_B = groups(make_batch([1, 12, 30]), user, lambda ids: [table[part] for part in ids], generator_of(0)).loss_B
    loss_B.sum().backward()
    assert loss_B.tolist() == [0, 0, 0]
    assert user.grad is not None
    assert torch.isfinite(user.grad).all()


def test_the_means_of_midx_are_those_of_the_vectors_met_and_forget_beyond_their_memory(sized: Catalogue) -> None:
    (midx,) = build(sized, {"sampler": "midx", "memory": 4})
    assert isinstance(midx, Midx)
    # Items 0 .. 9 are of cluster 0, item 10 of cluster 1, item 40 of none.
    positives = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1.0]])
    draws = torch.tensor([[[0, 0, 1.0, 0]], [[1.0, 0, 0, 0]], [[0, 1.0, 0, 0]]])
    batch = make_batch([0, 10, 40])
    drawn = {"negatives": Negatives(torch.tensor([[1], [2], [11]]), torch.ones(3, 1, dtype=torch.bool)), "negative_vectors": draws}
    midx.observe(context_of(batch, positive=positives, temperature=torch.tensor(0.07), **drawn), torch.zeros(3))
    assert torch.allclose(midx.mean_PD[:3], torch.tensor([[2 / 3, 0, 1 / 3, 0], [0, 1.0, 0, 0], [0, 0, 0, 0]]))
    assert midx.mass_P.tolist() == [3, 2, 0, 0]
    assert midx.temperature.item() == pytest.approx(0.07)
    # Two more in cluster 0: a plain mean over 5, of which 4 are remembered; then one more weighs 1 / 5.
    for targets in ([3, 4], [5]):
        midx.wait(context_of(make_batch(targets), positive=torch.tensor([[0, 0, 0, 1.0]] * len(targets))))
    assert torch.allclose(midx.mean_PD[0], torch.tensor([0.4, 0, 0.2, 0.4]) * 0.8 + torch.tensor([0, 0, 0, 0.2]))
    assert midx.mass_P.tolist() == [4, 2, 0, 0]


def test_midx_is_corrected_by_the_means_and_temperature_that_it_drew_by(sized: Catalogue) -> None:
    groups = NegativeGroups(
        build(sized, {"sampler": "in_batch"}, {"sampler": "midx", "num_negatives": 6}), loss_of(sized), temperature_of(sized)
    )
    table = unit(sized.num_items, 4)

    def encode(ids: Sequence[Tensor]) -> list[Tensor]:
        return [table[part] for part in ids]

    for step in range(3):
        before = copy.deepcopy(groups)
        user, batch = unit(4, step), make_batch([1 + step, 12, 20, 30])
        loss_B = groups(batch, user, encode, generator_of(step)).loss_B
        # The clone is asked by hand, and sees no step in between.
        context = context_of(batch, user, table[batch.target], temperature=before.temperature.shown())
        samplers = list(before.samplers)
        terms = []
        random = generator_of(step)
        for negatives, sampler in [(sampler.propose(batch, user, random), sampler) for sampler in samplers]:  # type: ignore[operator]
            scores = (user[:, None] * table[negatives.ids.expand(4, -1) if negatives.ids.dim() == 1 else negatives.ids]).sum(-1)
            terms += sampler.refine(negatives, scores, context)  # type: ignore[operator]
        expected_B = before.loss(before.loss.logits(terms, samplers, context), context)  # type: ignore[arg-type]
        assert torch.allclose(loss_B, expected_B, atol=1e-5)
        assert not torch.equal(groups.samplers[1].mean_PD, before.samplers[1].mean_PD), "it learned after the step"  # type: ignore[arg-type]


def test_samplers_that_keep_vectors_must_know_their_dimensions(catalogue: Catalogue) -> None:
    for name in ("cross_batch", "midx"):
        with pytest.raises(ConfigError, match=f"the {name} sampler keeps item vectors and must be told their dimensions"):
            build(catalogue, {"sampler": name})
    with pytest.raises(ConfigError, match="the midx sampler needs cluster tables; run the cluster stage"):
        build(Catalogue(3, torch.ones(3) / 3, dim=DIM), {"sampler": "midx"})


def test_the_streaming_estimate_in_numbers() -> None:
    # Item 0 is met at steps 1, 3 and 7, twice in the last; item 1 only on padding.
    # With a = 0.5: B = 1, then 0.5 * 1 + 0.5 * 2 = 1.5, then 0.5 * 1.5 + 0.5 * 4 = 2.75.
    streaming = StreamingEstimate(6, 0.5)
    for step in range(1, 8):
        present = step in (1, 3, 7)
        streaming.observe(torch.tensor([0, 0, 1]), torch.tensor([present, present, False]))
    found = streaming.log_probability(torch.tensor([0, 1, 5]), batch_size=3).exp()
    # What was not met in 7 steps counts as once in 8.
    assert torch.allclose(found, torch.tensor([1 / 2.75, 1 / 8, 1 / 8]))
    # At the start, as rare as a uniform draw would make it: 3 of 600.
    assert StreamingEstimate(600, 0.5).log_probability(torch.tensor([4]), 3).exp().item() == pytest.approx(3 / 600)


def test_the_streaming_estimate_finds_the_chance_to_be_in_a_batch_and_saturates_at_one() -> None:
    num_items, rows, steps = 60, 32, 3000
    share = (torch.arange(num_items) + 1.0) ** -1.0
    share /= share.sum()
    chance = 1 - (1 - share) ** rows
    catalogue = Catalogue(num_items, torch.zeros(num_items))
    (in_batch,) = build(catalogue, {"sampler": "in_batch", "estimate": "streaming", "rate": 0.01})
    drawn = torch.multinomial(share.expand(steps, -1), rows, replacement=True, generator=generator_of(0))
    batch = make_batch([0] * rows)
    context = context_of(batch)
    for row in drawn:
        batch.target = row
        in_batch.wait(context)
    found = in_batch.log_expected_count(context, torch.arange(num_items))
    assert found is not None
    error = found.exp() / chance - 1
    # The newest hundred gaps or so count: a relative error of about sqrt(0.01 / 2).
    assert error.abs().mean() < 0.1
    assert error.abs().max() < 0.4
    assert (found <= 0).all()
    assert (rows * share)[0] > 6, "the head item is met several times in a batch,"
    assert found[0].exp().item() == pytest.approx(1, abs=0.02), "and counts once"
    # Unlike train counts, it serves items that no count was told of.
    assert in_batch.propose(make_batch([3, 4]), torch.zeros(2, 1), generator_of(0)).valid.tolist() == [[False, True], [True, False]]
