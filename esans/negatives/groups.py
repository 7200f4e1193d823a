"""One step of negative sampling: propose, encode, refine, loss, observe (contract 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Generator, Tensor, nn

from esans.negatives.base import Batch, Context, Negatives, Sampler, Terms
from esans.negatives.loss import logits_of, negative_shares, sampled_softmax

# Groups of item ids, each of any shape -> their unit vectors, (*shape, D) each.
Encode = Callable[[Sequence[Tensor]], list[Tensor]]


@dataclass
class StepResult:
    """What one step yields."""

    loss_B: Tensor
    """(B,) loss of each example, unweighted."""
    shares: dict[str, Tensor]
    """Share of each group in the negatives' softmax mass; empty unless asked for."""


class NegativeGroups(nn.Module):
    """All groups of negatives of one run, composed in any way."""

    def __init__(self, samplers: Sequence[Sampler], correct: bool = True) -> None:
        super().__init__()
        self.samplers = nn.ModuleList(samplers)
        self.correct = correct

    def forward(
        self, batch: Batch, user_BD: Tensor, encode: Encode, temperature: Tensor, generator: Generator, diagnose: bool = False
    ) -> StepResult:
        """Loss of a batch.

        Args:
            batch: B examples.
            user_BD: user vectors at unit norm, with gradient.
            encode: groups of item ids -> their unit vectors, with gradient; repeated ids are its business.
            temperature: scalar or (B,), > 0.
            generator: on the device of the batch.
            diagnose: also compute the share of each group.

        Returns:
            StepResult.
        """
        samplers: list[Sampler] = list(self.samplers)  # type: ignore[arg-type]
        proposals = [sampler.propose(batch, user_BD.detach(), generator) for sampler in samplers]
        # One call for all ids, so that an item met in several groups is encoded once.
        positive_BD, *vectors = encode([batch.target, *[negatives.ids for negatives in proposals]])
        positive_B = (user_BD * positive_BD).sum(-1)
        terms: list[Terms] = []
        contexts = []
        for sampler, negatives, negative_vectors in zip(samplers, proposals, vectors, strict=True):
            context = Context(batch, user_BD, positive_B, positive_BD, negative_vectors, temperature, generator)
            terms += sampler.refine(negatives, _scores(user_BD, negative_vectors, negatives), context)
            contexts.append(context)
        logits = logits_of(terms, samplers, batch, temperature, self.correct)
        loss_B = sampled_softmax(positive_B, logits, temperature)
        for sampler, context in zip(samplers, contexts, strict=True):
            sampler.observe(context, loss_B.detach())
        return StepResult(loss_B, negative_shares(terms, [values.detach() for values in logits]) if diagnose else {})


def _scores(user_BD: Tensor, vectors: Tensor, negatives: Negatives) -> Tensor:
    if negatives.ids.dim() == 1:
        return user_BD @ vectors.T
    flat = vectors.flatten(1, -2)
    return (flat * user_BD[:, None, :]).sum(-1).view(negatives.ids.shape)
