"""Score mixing, the pooled loss and its gradients against their naive forms (METHOD 4 and 4b)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from esans.negatives.base import Batch, Context, Negatives, Sampler, Terms
from esans.negatives.edis import hard_scores, mix_scores, simple_weights, subset_sizes
from esans.negatives.groups import NegativeGroups
from esans.negatives.loss import negative_shares, sampled_softmax
from esans.negatives.registry import build_samplers, resolve
from esans.negatives.tables import Catalogue
from tests.negatives.conftest import context_of, generator_of, loss_of, make_batch, temperature_of

TAU = torch.tensor(0.2, dtype=torch.float64)


def unit(shape: tuple[int, ...], seed: int) -> Tensor:
    return F.normalize(torch.randn(shape, generator=generator_of(seed), dtype=torch.float64), dim=-1)


def logits_of(terms: Sequence[Terms], samplers: Sequence[Sampler], batch: Batch) -> list[Tensor]:
    """Logits of the pooled sampled softmax at TAU."""
    num_items = samplers[0].num_items if samplers else 1
    return loss_of(Catalogue(num_items, torch.ones(num_items) / num_items)).logits(terms, samplers, context_of(batch, temperature=TAU))


@pytest.mark.parametrize("parents", range(2, 9))
def test_simple_interpolation_makes_the_published_number_of_virtuals(parents: int) -> None:
    assert len(subset_sizes(parents)) == (parents + 2) * (parents - 1) // 2


@given(seed=st.integers(0, 2**31), masked=st.floats(0, 0.9))
@settings(deadline=None)
def test_mixing_weights_are_non_negative_sum_to_one_and_vanish_at_masked_parents(seed: int, masked: float) -> None:
    valid = torch.rand(8, 2, 5, generator=generator_of(seed)) >= masked
    weights, live = simple_weights(valid, generator_of(seed + 1))
    assert (weights >= 0).all()
    assert (weights.masked_select(~valid[:, :, None, :].expand_as(weights)) == 0).all()
    assert torch.allclose(weights.sum(-1), live.float(), atol=1e-5)
    assert ((weights > 0).sum(-1)[live] >= 2).all()


def test_subsets_are_uniform_and_weights_dirichlet() -> None:
    weights, _ = simple_weights(torch.ones(40_000, 1, 4, dtype=torch.bool), generator_of(0))
    for place, size in enumerate(subset_sizes(4)):
        column = weights[:, 0, place]
        assert ((column > 0).sum(-1) == size).all()
        assert torch.allclose((column > 0).float().mean(0), torch.full((4,), size / 4), atol=0.015)
        # A component of Dirichlet(1_k) has variance (k - 1) / (k^2 (k + 1)).
        assert column[column > 0].var().item() == pytest.approx((size - 1) / (size**2 * (size + 1)), rel=0.05)


@given(seed=st.integers(0, 2**31), normalise=st.booleans())
@settings(deadline=None)
def test_score_mixing_equals_explicit_mixing(seed: int, normalise: bool) -> None:
    user, vectors = unit((6, 16), seed), unit((6, 2, 5, 16), seed + 1)
    weights, live = simple_weights(torch.rand(6, 2, 5, generator=generator_of(seed)) > 0.2, generator_of(seed + 2))
    weights = weights.double()
    explicit = weights @ vectors
    if normalise:
        explicit = F.normalize(explicit, dim=-1)
    scores = torch.einsum("bd,bcmd->bcm", user, vectors)
    mixed = mix_scores(scores, weights, vectors @ vectors.transpose(-1, -2) if normalise else None)
    expected = torch.einsum("bd,bcvd->bcv", user, explicit)
    assert torch.allclose(mixed[live], expected[live], atol=1e-5)


@given(seed=st.integers(0, 2**31), mix=st.floats(-0.5, 0.5), normalise=st.booleans())
@settings(deadline=None)
def test_hard_score_mixing_equals_explicit_mixing(seed: int, mix: float, normalise: bool) -> None:
    user, positive, hard = unit((6, 16), seed), unit((6, 16), seed + 1), unit((6, 5, 16), seed + 2)
    explicit = mix * positive[:, None] + (1 - mix) * hard
    if normalise:
        explicit = F.normalize(explicit, dim=-1)
    cosine = torch.einsum("bd,bhd->bh", positive, hard) if normalise else None
    scores = torch.einsum("bd,bhd->bh", user, hard)
    mixed = hard_scores(scores, (user * positive).sum(-1, keepdim=True), torch.tensor(mix, dtype=torch.float64), cosine)
    assert torch.allclose(mixed, torch.einsum("bd,bhd->bh", user, explicit), atol=1e-5)


@given(seed=st.integers(0, 2**31))
@settings(deadline=None)
def test_a_raw_mix_never_outscores_its_hardest_parent_and_unit_norm_makes_positive_ones_harder(seed: int) -> None:
    user, vectors = unit((6, 8), seed), unit((6, 2, 5, 8), seed + 1)
    weights, _ = simple_weights(torch.ones(6, 2, 5, dtype=torch.bool), generator_of(seed))
    scores = torch.einsum("bd,bcmd->bcm", user, vectors)
    raw = mix_scores(scores, weights.double())
    assert (raw <= scores.max(-1, keepdim=True).values + 1e-6).all()
    normed = mix_scores(scores, weights.double(), vectors @ vectors.transpose(-1, -2))
    assert (normed >= raw - 1e-6)[raw > 0].all()


def test_raw_lambda_above_zero_is_harder_exactly_when_the_positive_scores_higher() -> None:
    scores, positive = torch.tensor([[0.1, 0.5]]), torch.tensor([[0.3]])
    harder = hard_scores(scores, positive, torch.tensor(0.3)) > scores
    easier = hard_scores(scores, positive, torch.tensor(-0.3)) < scores
    assert harder.tolist() == [[True, False]]
    assert easier.tolist() == [[True, False]]


def _context(seed: int, negatives: Negatives, leaves: dict[str, Tensor]) -> Context:
    batch = make_batch([0] * len(leaves["user"]))
    drawn = {"negative_vectors": leaves["negatives"], "temperature": TAU, "generator": generator_of(seed)}
    return context_of(batch, leaves["user"], leaves["positive"], **drawn)


@pytest.mark.parametrize(("name", "keys"), [("easy", {"unit_norm": True}), ("easy", {"unit_norm": False})])
def test_gradients_of_simple_interpolation_equal_autograd_of_the_naive_form(catalogue: Catalogue, name: str, keys: dict[str, bool]) -> None:
    drawing = build_samplers(resolve([{"sampler": name, **keys}]), catalogue)[0]
    leaves = {"user": unit((4, 8), 1), "positive": unit((4, 8), 2), "negatives": unit((4, 2, 5, 8), 3)}
    valid = torch.rand(4, 2, 5, generator=generator_of(9)) > 0.2
    negatives = Negatives(torch.zeros(4, 2, 5, dtype=torch.long), valid)

    def fast(values: dict[str, Tensor]) -> list[Tensor]:
        scores = torch.einsum("bd,bcmd->bcm", values["user"], values["negatives"])
        terms = drawing.refine(negatives, scores, _context(11, negatives, values))
        return [group.scores.masked_fill(~group.valid, 0) for group in terms]

    def naive(values: dict[str, Tensor]) -> list[Tensor]:
        weights, live = simple_weights(valid, generator_of(11))
        virtual = weights.double() @ values["negatives"]
        if keys["unit_norm"]:
            virtual = F.normalize(virtual, dim=-1)
        real = torch.einsum("bd,bcmd->bcm", values["user"], values["negatives"]).masked_fill(~valid, 0)
        return [real.flatten(1), torch.einsum("bd,bcvd->bcv", values["user"], virtual).masked_fill(~live, 0).flatten(1)]

    _same_gradients(fast, naive, leaves)


@pytest.mark.parametrize(("mix", "mix_high"), [(0.3, None), (-0.3, None), (0.3, 0.5), (-0.3, 0.5)])
@pytest.mark.parametrize(("unit_norm", "detach"), list(itertools.product([True, False], [True, False])))
def test_gradients_of_hard_interpolation_equal_autograd_of_the_naive_form(
    catalogue: Catalogue, unit_norm: bool, detach: bool, mix: float, mix_high: float | None
) -> None:
    keys = {"sampler": "hard", "unit_norm": unit_norm, "detach_positive": detach, "mix": mix, "mix_high": mix_high}
    drawing = build_samplers(resolve([keys]), catalogue)[0]
    leaves = {"user": unit((4, 8), 1), "positive": unit((4, 8), 2), "negatives": unit((4, 5, 8), 3)}
    negatives = Negatives(torch.zeros(4, 5, dtype=torch.long), torch.ones(4, 5, dtype=torch.bool))

    def fast(values: dict[str, Tensor]) -> list[Tensor]:
        scores = torch.einsum("bd,bhd->bh", values["user"], values["negatives"])
        return [group.scores for group in drawing.refine(negatives, scores, _context(11, negatives, values))]

    def naive(values: dict[str, Tensor]) -> list[Tensor]:
        positive = values["positive"].detach() if detach else values["positive"]
        drawn = torch.rand(4, 5, generator=generator_of(11)) if mix_high else torch.zeros(4, 5)
        share = (mix + ((mix_high or mix) - mix) * drawn)[..., None].double()
        virtual = share * positive[:, None] + (1 - share) * values["negatives"]
        if unit_norm:
            virtual = F.normalize(virtual, dim=-1)
        both = values["negatives"], virtual
        return [torch.einsum("bd,bhd->bh", values["user"], vectors) for vectors in both]

    _same_gradients(fast, naive, leaves)


@pytest.mark.parametrize(("name", "shape"), [("easy", (4, 2, 5)), ("hard", (4, 5))])
def test_without_interpolation_only_the_draws_are_terms_and_their_gradients_are_those_of_dot_products(
    catalogue: Catalogue, name: str, shape: tuple[int, ...]
) -> None:
    drawing = build_samplers(resolve([{"sampler": name, "interpolate": False}]), catalogue)[0]
    leaves = {"user": unit((4, 8), 1), "positive": unit((4, 8), 2), "negatives": unit((*shape, 8), 3)}
    negatives = Negatives(torch.zeros(shape, dtype=torch.long), torch.ones(shape, dtype=torch.bool))

    def fast(values: dict[str, Tensor]) -> list[Tensor]:
        scores = torch.einsum("bd,b...d->b...", values["user"], values["negatives"])
        terms = drawing.refine(negatives, scores, _context(11, negatives, values))
        assert [group.name for group in terms] == [name]
        return [group.scores for group in terms]

    def naive(values: dict[str, Tensor]) -> list[Tensor]:
        return [(values["user"][:, None] * values["negatives"].flatten(1, -2)).sum(-1)]

    _same_gradients(fast, naive, leaves)


def _same_gradients(fast: object, naive: object, leaves: dict[str, Tensor]) -> None:
    gradients = []
    for form in (fast, naive):
        values = {name: value.clone().requires_grad_() for name, value in leaves.items()}
        # The closed form of the norm holds for unit vectors, which is what towers give.
        parts = form({name: F.normalize(value, dim=-1) for name, value in values.items()})  # type: ignore[operator]
        loss = torch.cat([part / TAU for part in parts], 1).logsumexp(1).sum()
        loss.backward()
        gradients.append([value.grad if value.grad is not None else torch.zeros_like(value) for value in values.values()])
    for got, expected in zip(*gradients, strict=True):
        assert torch.allclose(got, expected, atol=1e-6)


def test_a_row_without_any_live_negative_has_loss_zero_and_finite_gradients() -> None:
    user = unit((3, 8), 0).requires_grad_()
    vectors = unit((5, 8), 1).requires_grad_()
    valid = torch.tensor([[True] * 5, [False] * 5, [True] + [False] * 4])
    terms = [Terms("easy", user @ vectors.T, valid, kind="semantic")]
    logits = logits_of(terms, [], make_batch([0, 1, 2]))
    loss = sampled_softmax((user * unit((3, 8), 2)).sum(-1) / TAU, logits)
    loss.sum().backward()
    assert loss[1].item() == pytest.approx(0)
    assert user.grad is not None
    assert torch.isfinite(user.grad).all()
    assert torch.isfinite(vectors.grad).all()  # type: ignore[arg-type]
    shares = negative_shares(terms, [values.detach() for values in logits])
    assert shares["easy"].item() == pytest.approx(1)


@given(seed=st.integers(0, 2**31), mix=st.floats(0.01, 0.5))
@settings(deadline=None)
def test_lambda_pulls_towards_the_positive_above_zero_pushes_below_and_above_one_turns_its_gradient(seed: int, mix: float) -> None:
    user, positive, hard = unit((6, 16), seed), unit((6, 16), seed + 1).requires_grad_(), unit((6, 5, 16), seed + 2)
    scores = torch.einsum("bd,bhd->bh", user, hard)
    score_B1 = (user * positive).sum(-1, keepdim=True)
    assert torch.equal(hard_scores(scores, score_B1, torch.tensor(mix)) > scores, (score_B1 > scores).expand_as(scores))
    assert torch.equal(hard_scores(scores, score_B1, torch.tensor(-mix)) < scores, (score_B1 > scores).expand_as(scores))
    # A virtual negative with all the mass moves the positive's score by lambda - 1: pulled up to lambda = 1, pushed away above.
    for value, sign in ((mix, -1), (1.5, 1)):
        virtual = hard_scores(scores, score_B1, torch.tensor(value))
        (slope,) = torch.autograd.grad((virtual.mean(1, keepdim=True) - score_B1).sum(), score_B1, retain_graph=True)
        assert (slope.sign() == sign).all()


@pytest.mark.parametrize("correction", ["pooled", "full", "none"])
def test_corrections_differ_by_the_number_of_draws_and_none_leaves_raw_logits(correction: str) -> None:
    catalogue = Catalogue(25, torch.full((25,), 1 / 25))
    samplers = build_samplers(resolve([GROUPS["uniform"]]), catalogue)
    scores = unit((4, 8), 3)
    terms = [Terms("uniform", scores, torch.ones(4, 8, dtype=torch.bool), torch.zeros(4, 8, dtype=torch.long), "global")]
    logits = loss_of(catalogue, correction=correction).logits(terms, samplers, context_of(make_batch([1] * 4), temperature=TAU))[0]
    # Uniform: pooled subtracts nothing; full turns the mean over 8 draws into the sum over 25 items.
    shift = math.log(25 / 8) if correction == "full" else 0.0
    assert torch.allclose(logits, scores / TAU + shift, atol=1e-6)


GROUPS = {
    "uniform": {"sampler": "uniform", "num_negatives": 8},
    "shared": {"sampler": "uniform", "num_negatives": 16, "shared": True},
    "in_batch": {"sampler": "in_batch"},
}


def _estimates(names: tuple[str, ...], repeats: int, scale: int = 1) -> tuple[Tensor, Tensor]:
    """Estimates of Z per user, and the exact Z, on a catalogue of 25 items and the users of 8 examples."""
    num_items, rows = 25, 8 * scale
    weight = torch.arange(1, num_items + 1).double()
    catalogue = Catalogue(num_items, (weight / weight.sum()).float())
    groups = [dict(GROUPS[name]) for name in names]
    for group in groups:
        if "num_negatives" in group:
            group["num_negatives"] = int(group["num_negatives"]) * scale
    samplers = build_samplers(resolve(groups), catalogue)
    scores_N = torch.linspace(-1, 1, num_items).double()
    totals = []
    for repeat in range(repeats):
        random = generator_of(repeat)
        # The positives of a batch are drawn by their share, as the examples of an epoch are.
        batch = make_batch(torch.multinomial(weight, rows, replacement=True, generator=random).tolist())
        terms = []
        for sampler in samplers:
            negatives = sampler.propose(batch, torch.zeros(rows, 1), random)
            everything = torch.ones(rows, negatives.ids[0].numel() if negatives.ids.dim() > 1 else len(negatives.ids), dtype=torch.bool)
            ids = negatives.ids if negatives.ids.dim() == 1 else negatives.ids.reshape(rows, -1)
            terms.append(Terms(sampler.name, scores_N[ids].expand(rows, -1), everything, ids, "global"))
        logits = logits_of(terms, samplers, batch)
        draws = sum(sampler.draws_per_example(batch) for sampler in samplers)
        totals.append(torch.logsumexp(torch.cat(logits, 1), 1).exp().mean() * num_items / draws)
    return torch.stack(totals), (scores_N / TAU).exp().sum()


@pytest.mark.parametrize("names", [("uniform",), ("in_batch",), *itertools.combinations(GROUPS, 2), tuple(GROUPS)])
def test_the_pooled_groups_estimate_the_full_sum_without_bias(names: tuple[str, ...]) -> None:
    estimates, exact = _estimates(names, 1500)
    error = estimates.std() / math.sqrt(len(estimates))
    assert (estimates.mean() - exact).abs() < 5 * error
    assert 5 * error < 0.3 * exact, "the test could not fail"


def test_the_bias_of_the_log_shrinks_with_the_number_of_draws() -> None:
    biases = []
    for scale in (1, 6):
        estimates, exact = _estimates(("in_batch", "shared"), 600, scale)
        biases.append((estimates.log().mean() - exact.log()).abs())
    assert biases[1] < 0.5 * biases[0]


def test_uniform_alone_needs_no_correction_and_the_temperature_divides_before_it_is_subtracted(catalogue: Catalogue) -> None:
    samplers = build_samplers(resolve([GROUPS["uniform"]]), catalogue)
    batch = make_batch([0, 1])
    scores = torch.tensor([[0.2, 0.4], [0.1, -0.3]], dtype=torch.float64)
    terms = [Terms("uniform", scores, torch.ones(2, 2, dtype=torch.bool), torch.tensor([[3, 4], [5, 6]]), "global")]
    assert torch.allclose(logits_of(terms, samplers, batch)[0], scores / TAU, atol=1e-6)
    mixed = build_samplers(resolve([GROUPS["uniform"], GROUPS["in_batch"]]), catalogue)
    expected = torch.log(8 / catalogue.num_items + 2 * catalogue.target_probability_N[torch.tensor([[3, 4], [5, 6]])]) - math.log(
        (8 + 2) / catalogue.num_items
    )
    assert torch.allclose(logits_of(terms, mixed, batch)[0], scores / TAU - expected, atol=1e-5)


def test_semantic_terms_are_never_corrected_but_weighted(catalogue: Catalogue) -> None:
    terms = [
        Terms(
            "easy", torch.zeros(1, 3, dtype=torch.float64), torch.ones(1, 3, dtype=torch.bool), torch.tensor([[1, 2, 3]]), "semantic", -0.7
        )
    ]
    assert torch.allclose(logits_of(terms, [], make_batch([0]))[0], torch.full((1, 3), -0.7, dtype=torch.float64))


class _Learner(Sampler):
    kind = "semantic"
    seen: list[Tensor]

    def propose(self, batch: Batch, user_BD: Tensor, generator: torch.Generator) -> Negatives:
        assert not user_BD.requires_grad
        ids = torch.zeros(len(batch), 2, dtype=torch.long) + 5
        return Negatives(ids, ~batch.knows(ids))

    def draws_per_example(self, batch: Batch) -> int:
        return 2

    def observe(self, context: Context, loss_B: Tensor) -> None:
        self.seen.append(loss_B)


def test_a_step_proposes_encodes_each_id_once_refines_and_lets_samplers_observe(catalogue: Catalogue) -> None:
    learner = _Learner(_Learner.Config(sampler="mine"), catalogue)
    learner.seen = []
    samplers = [*build_samplers(resolve([GROUPS["in_batch"], {"sampler": "easy"}, {"sampler": "hard"}]), catalogue), learner]
    groups = NegativeGroups(samplers, loss_of(catalogue), temperature_of(catalogue))
    table = unit((catalogue.num_items, 8), 4).float().requires_grad_()
    user = unit((6, 8), 5).float().requires_grad_()
    calls = []

    def encode(ids: Sequence[Tensor]) -> list[Tensor]:
        calls.append([tuple(part.shape) for part in ids])
        return [table[part] for part in ids]

    result = groups(make_batch([0, 3, 12, 30, 35, 40]), user, encode, generator_of(0), diagnose=True)
    result.loss_B.mean().backward()
    assert calls == [[(6,), (6, 2, 5), (6, 5), (6, 2)]], "the positives once: in_batch takes their vectors"
    assert torch.isfinite(result.loss_B).all()
    shares = {name: figure for name, figure in result.figures.items() if name.startswith("share_")}
    assert set(shares) == {f"share_{name}" for name in ("in_batch", "easy", "easy_virtual", "hard", "hard_virtual", "mine")}
    assert sum(share.item() for share in shares.values()) == pytest.approx(1, abs=1e-5)
    assert len(learner.seen) == 1
    assert user.grad is not None
    assert user.grad.abs().sum() > 0
