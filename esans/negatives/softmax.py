"""The two passes over all scores of a step, forward and back, as autograd functions: with a batch's own positives as negatives they
are the largest tensors of a step, and every pass that is left out counts.

Shape letters: B examples, n terms of a group.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def shifted_logits(scores_Bn: Tensor, rate: Tensor, shift: Tensor, valid_Bn: Tensor) -> Tensor:
    """Scores times rate plus shift where valid, -inf elsewhere: (B, n).

    Args:
        scores_Bn: cosines.
        rate: 1 / temperature, a scalar or (B,); gets a gradient.
        shift: scalar, (n,) or (B, n) without gradient.
        valid_Bn: bool. A masked term's gradient must be 0, as that of any loss is which takes the exponential of a logit.
    """
    found: Tensor = _ShiftedLogits.apply(scores_Bn, rate, shift, valid_Bn)
    return found


def softmax_loss(positive_B: Tensor, *logits: Tensor) -> Tensor:
    """-log softmax of the positive's logit against all groups of logits: (B,). Finite, 0 where every term is masked."""
    found: Tensor = _SoftmaxLoss.apply(positive_B, *logits)
    return found


class _ShiftedLogits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores_Bn: Tensor, rate: Tensor, shift: Tensor, valid_Bn: Tensor) -> Tensor:
        ctx.save_for_backward(scores_Bn, rate)
        # Half precision ends here.
        wide_Bn = scores_Bn.to(torch.promote_types(scores_Bn.dtype, torch.float32))
        # An item that no group can draw has an infinite correction, and is masked.
        finite = shift.to(wide_Bn.dtype).clamp_max(1e30)
        logits = torch.addcmul(finite, wide_Bn, (rate[:, None] if rate.dim() else rate).to(wide_Bn.dtype))
        # 0 / 1 and -1 / 0: a CPU takes ten times as long to choose by a mask, or to make floats of bools.
        live_Bn = valid_Bn.view(torch.uint8).to(logits.dtype)
        return logits.addcdiv_(live_Bn - 1, live_Bn)

    @staticmethod
    def backward(ctx: Any, grad_Bn: Tensor) -> tuple[Tensor | None, ...]:
        scores_Bn, rate = ctx.saved_tensors
        grad_rate = None
        if ctx.needs_input_grad[1]:
            grad_rate = (grad_Bn * scores_Bn).sum(1) if rate.dim() else (grad_Bn.flatten() @ scores_Bn.to(grad_Bn.dtype).flatten())
            grad_rate = grad_rate.to(rate.dtype)
        return (grad_Bn * (rate[:, None] if rate.dim() else rate)).to(scores_Bn.dtype), grad_rate, None, None


class _SoftmaxLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, positive_B: Tensor, *logits: Tensor) -> Tensor:
        everything = torch.cat([positive_B[:, None], *logits], dim=1)
        chance = torch.softmax(everything, dim=1)
        ctx.save_for_backward(chance)
        ctx.sizes = [1, *(group.shape[1] for group in logits)]
        # The largest chance is at least 1 / n, so that its logarithm is safe where the positive's would be that of 0.
        return everything.amax(1) - chance.amax(1).log() - everything[:, 0]

    @staticmethod
    def backward(ctx: Any, grad_B: Tensor) -> tuple[Tensor, ...]:
        (chance,) = ctx.saved_tensors
        # A product a group: a CPU would copy parts of one large product to make them contiguous.
        positive_B1, *groups = (part * grad_B[:, None] for part in chance.split(ctx.sizes, dim=1))
        return positive_B1[:, 0] - grad_B, *groups
