"""One step of negative sampling: propose, encode, refine, loss, observe (contract 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Generator, Tensor, nn

from esans.negatives.base import Batch, Context, Negatives, Sampler, Terms
from esans.negatives.diagnosis import Later
from esans.negatives.diagnosis import diagnose as diagnosis
from esans.negatives.loss import Loss
from esans.negatives.temperature import Temperature

# Groups of item ids, each of any shape -> their unit vectors, (*shape, D) each.
Encode = Callable[[Sequence[Tensor]], list[Tensor]]


@dataclass
class StepResult:
    """What one step yields."""

    loss_B: Tensor
    """(B,) loss of each example, unweighted."""
    figures: dict[str, Tensor]
    """Scalars on the device, by the name of the metric (esans.negatives.diagnosis); empty unless asked for."""


class NegativeGroups(nn.Module):
    """All groups of negatives of one run, their temperature and their loss, composed in any way."""

    def __init__(self, samplers: Sequence[Sampler], loss: Loss, temperature: Temperature, later: Later | None = None) -> None:
        super().__init__()
        self.samplers = nn.ModuleList(samplers)
        self.loss, self.temperature = loss, temperature
        # No buffer: it is no part of a checkpoint, and other processes do without it.
        self.later = later

    def forward(
        self, batch: Batch, user_BD: Tensor, encode: Encode, generator: Generator, epoch: float = 0.0, diagnose: bool = False
    ) -> StepResult:
        """Loss of a batch.

        Args:
            batch: B examples.
            user_BD: user vectors at unit norm, with gradient.
            encode: groups of item ids -> their unit vectors, with gradient; repeated ids are its business.
            generator: on the device of the batch.
            epoch: epochs trained so far, with their fraction; schedules run by it.
            diagnose: also compute the figures of the step.

        Returns:
            StepResult.
        """
        samplers: list[Sampler] = [sampler for sampler in self.samplers if sampler.entered(epoch)]  # type: ignore[operator,misc]
        proposals = [sampler.propose(batch, user_BD.detach(), generator) for sampler in samplers]
        positive_BD, vectors = _encoded(batch, proposals, encode)
        context = Context(batch, user_BD, (user_BD * positive_BD).sum(-1), positive_BD, generator, epoch)
        context.temperature, context.positive_temperature = self.temperature(context), self.temperature.of_positive()
        terms: list[Terms] = []
        contexts = []
        for sampler, negatives, negative_vectors in zip(samplers, proposals, vectors, strict=True):
            own = replace(context, negative_vectors=negative_vectors, negatives=negatives)
            terms += sampler.refine(negatives, _scores(user_BD, negative_vectors, negatives), own)
            contexts.append(own)
        for known in (context, *contexts):
            known.terms = terms
        logits = self.loss.logits(terms, samplers, context)
        loss_B = self.loss(logits, context)
        for sampler, own in zip(samplers, contexts, strict=True):
            sampler.observe(own, loss_B.detach())
        for waiting in self.samplers:
            if waiting not in samplers:
                waiting.wait(context)  # type: ignore[operator]
        for learner in (self.loss, self.temperature):
            learner.observe(context, loss_B.detach())
        figures = diagnosis(terms, logits, samplers, context, self.later) if diagnose else {}
        return StepResult(loss_B, figures)


def _encoded(batch: Batch, proposals: Sequence[Negatives], encode: Encode) -> tuple[Tensor, list[Tensor]]:
    """Vectors of the positives and of each group's draws; one call for all ids, so that an item met twice is encoded once."""
    positive_BD, *encoded = encode([batch.target, *[negatives.ids for negatives in proposals if negatives.encoded]])
    rest = iter(encoded)
    return positive_BD, [next(rest) if negatives.encoded else _had(negatives, positive_BD) for negatives in proposals]


def _had(negatives: Negatives, positive_BD: Tensor) -> Tensor:
    """Vectors of draws that need no encoding."""
    if negatives.from_positives is not None:
        return negatives.from_positives(positive_BD)
    assert negatives.vectors is not None
    return negatives.vectors


def _scores(user_BD: Tensor, vectors: Tensor, negatives: Negatives) -> Tensor:
    if negatives.ids.dim() == 1:
        return user_BD @ vectors.T
    flat = vectors.flatten(1, -2)
    return (flat * user_BD[:, None, :]).sum(-1).view(negatives.ids.shape)
