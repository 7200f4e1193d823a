"""Groups that enter late, annealed weights and lambda, temperatures of a group: what reaches the loss at given epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from esans.config import build
from esans.errors import ConfigError
from esans.negatives.base import Terms
from esans.negatives.groups import NegativeGroups
from esans.negatives.loss import Loss
from esans.negatives.registry import build_samplers, resolve
from esans.negatives.tables import Catalogue
from esans.train.config import TrainConfig
from tests.negatives.conftest import generator_of, loss_of, make_batch, temperature_of

TARGETS = [1, 3, 12, 30, 35]


class Seen:
    """Terms and logits of one step, by the name of the group."""

    def __init__(self, catalogue: Catalogue, groups: Sequence[dict[str, object]], epoch: float) -> None:
        module = NegativeGroups(build_samplers(resolve(groups), catalogue), loss_of(catalogue), temperature_of(catalogue, start=0.5))
        table = F.normalize(torch.randn(catalogue.num_items, 8, generator=generator_of(1)), dim=-1)
        user = F.normalize(torch.randn(len(TARGETS), 8, generator=generator_of(2)), dim=-1)
        self.terms: dict[str, Terms] = {}
        self.logits: dict[str, Tensor] = {}
        self._listen(module.loss)
        result = module(make_batch(TARGETS), user, lambda ids: [table[part] for part in ids], generator_of(0), epoch, diagnose=True)
        self.figures = result.figures

    def _listen(self, loss: Loss) -> None:
        inner = loss.logits

        def logits(terms: Sequence[Terms], *rest: object) -> list[Tensor]:
            found = inner(terms, *rest)  # type: ignore[arg-type]
            self.terms = {group.name: group for group in terms}
            self.logits = dict(zip(self.terms, found, strict=True))
            return found

        loss.logits = logits  # type: ignore[method-assign,assignment]


@pytest.mark.parametrize(("epoch", "weight"), [(0.0, -2.0), (1.0, -2.0), (2.0, -1.5), (3.0, -1.0), (5.0, 0.0), (9.0, 0.0)])
def test_log_weights_follow_their_ramp_into_the_logits_and_the_share_of_the_gradient(
    catalogue: Catalogue, epoch: float, weight: float
) -> None:
    ramp = {"start": -2.0, "end": 0.0, "from_epoch": 1, "to_epoch": 5}
    seen = Seen(catalogue, [{"sampler": "in_batch"}, {"sampler": "hard", "interpolate": False, "log_weight": ramp}], epoch)
    fixed = Seen(catalogue, [{"sampler": "in_batch"}, {"sampler": "hard", "interpolate": False}], epoch)
    live = seen.terms["hard"].valid
    assert torch.allclose(seen.logits["hard"][live], fixed.logits["hard"][live] + weight)
    assert (seen.figures["share_hard"] < fixed.figures["share_hard"]).item() == (weight < 0)


@pytest.mark.parametrize(("epoch", "mix"), [(0.0, -0.1), (2.0, 0.1), (4.0, 0.3)])
def test_lambda_follows_its_ramp(catalogue: Catalogue, epoch: float, mix: float) -> None:
    ramp = {"start": -0.1, "end": 0.3, "to_epoch": 4}
    annealed = Seen(catalogue, [{"sampler": "hard", "mix": ramp}], epoch)
    fixed = Seen(catalogue, [{"sampler": "hard", "mix": mix}], 0.0)
    assert torch.allclose(annealed.terms["hard_virtual"].scores, fixed.terms["hard_virtual"].scores, atol=1e-6)


def test_a_group_that_has_not_entered_brings_no_term_and_no_count_to_the_pool(catalogue: Catalogue) -> None:
    late = [
        {"sampler": "in_batch"},
        {"sampler": "uniform", "num_negatives": 8, "enters_at_epoch": 1.5},
        {"sampler": "hard", "enters_at_epoch": 1},
    ]
    before, between, after = (Seen(catalogue, late, epoch) for epoch in (0.5, 1.0, 1.5))
    assert list(before.terms) == ["in_batch"]
    assert list(between.terms) == ["in_batch", "hard", "hard_virtual"]
    assert list(after.terms) == ["in_batch", "uniform", "hard", "hard_virtual"]
    alone = Seen(catalogue, [{"sampler": "in_batch"}], 0.0)
    for early in (before, between):
        assert torch.equal(early.logits["in_batch"], alone.logits["in_batch"])
    share = catalogue.target_probability_N[torch.tensor(TARGETS)]
    rows, items = len(TARGETS), catalogue.num_items
    pooled = (rows * share + 8 / items).log() - math.log((rows + 8) / items)
    live = after.terms["in_batch"].valid
    expected = after.terms["in_batch"].scores / 0.5 - pooled
    assert torch.allclose(after.logits["in_batch"][live], expected[live], atol=1e-5)


def test_a_group_may_have_a_temperature_of_its_own(catalogue: Catalogue) -> None:
    seen = Seen(catalogue, [{"sampler": "in_batch"}, {"sampler": "easy", "temperature_ratio": 2.0}], 0.0)
    for name in ("easy", "easy_virtual"):
        live = seen.terms[name].valid
        assert torch.allclose(seen.logits[name][live], seen.terms[name].scores[live] / (0.5 * 2))


def test_a_config_in_which_nothing_takes_part_from_the_start_is_refused() -> None:
    late = [{"sampler": "easy", "enters_at_epoch": 2}, {"sampler": "hard", "enters_at_epoch": 1.5}]
    message = "no group takes part from the start, the first enters at epoch 1.5; set enters_at_epoch of at least one group to 0."
    with pytest.raises(ConfigError, match=message):
        build(TrainConfig, {"negatives": late}).resolve_groups()
    build(TrainConfig, {"negatives": [*late, {"sampler": "in_batch"}]}).resolve_groups()
