"""Codebooks that are trained with the alignment: the quantiser, its loss, and what becomes of dead codes (METHOD 2, `vq`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

PRIMARY, SECONDARY = "primary", "secondary"
LEVELS = (PRIMARY, SECONDARY)
# How far from its code towards a vector a dead code is put.
_TOWARDS = 0.2


@dataclass(frozen=True)
class Quantised:
    """What the codebooks make of some items; one entry per level in `codes`, `inputs`."""

    codes: dict[str, Tensor]
    """(n,) int64: c1, c2."""
    inputs: dict[str, Tensor]
    """(n, d_a) means m_i, and (n, M d_a) residuals r_i: what each level quantises."""
    codebook_N: Tensor
    """||sg[x] - c||^2, summed over the levels: its gradient goes to the codebooks alone."""
    commitment_N: Tensor
    """||x - sg[c]||^2, summed over the levels: its gradient goes to the heads alone."""
    straight_NMD: Tensor
    """P_c1 + Q_c2, one vector per modality; backward it is the identity (straight-through)."""


class Quantiser(nn.Module):
    """Primary codes of means, secondary codes of residuals (METHOD 2).

    Args:
        primary: (K1, d_a) centroids to start from.
        secondary: (K2, M d_a) centroids to start from, in the order of the modalities.
    """

    def __init__(self, primary: Tensor, secondary: Tensor) -> None:
        super().__init__()
        self.books = nn.ParameterDict({PRIMARY: nn.Parameter(primary.clone()), SECONDARY: nn.Parameter(secondary.clone())})

    def forward(self, filled_NMD: Tensor, mean_ND: Tensor) -> Quantised:
        """Aligned vectors with missing modalities filled in, and their means, as fill_missing gives them."""
        codes, inputs = {PRIMARY: nearest(mean_ND, self.books[PRIMARY])}, {PRIMARY: mean_ND}
        near_ND = self.books[PRIMARY][codes[PRIMARY]]
        # The residual moves with the vectors and not with P: no loss of the second level may pull at the first.
        residual_NMD = filled_NMD - near_ND.detach().unsqueeze(1)
        inputs[SECONDARY] = residual_NMD.flatten(1)
        codes[SECONDARY] = nearest(inputs[SECONDARY], self.books[SECONDARY])
        rest_NE = self.books[SECONDARY][codes[SECONDARY]]
        pairs = ((mean_ND, near_ND), (inputs[SECONDARY], rest_NE))
        codebook_N = torch.stack([(x.detach() - c).square().sum(1) for x, c in pairs]).sum(0)
        commitment_N = torch.stack([(x - c.detach()).square().sum(1) for x, c in pairs]).sum(0)
        straight_NMD = filled_NMD + (near_ND.unsqueeze(1) + rest_NE.view_as(filled_NMD) - filled_NMD).detach()
        return Quantised(codes, inputs, codebook_N, commitment_N, straight_NMD)


@torch.no_grad()
def nearest(x_ND: Tensor, code_KD: Tensor) -> Tensor:
    """argmin_k ||x - c_k||^2: (n,) int64."""
    return (code_KD.square().sum(1) / 2 - x_ND @ code_KD.T).argmin(1)


class Usage:
    """How often each code of one level was chosen."""

    def __init__(self, size: int) -> None:
        self.epoch, self.recent = np.zeros(size, np.int64), np.zeros(size, np.int64)

    def add(self, codes_N: Tensor) -> None:
        """Count the codes of some items of this rank."""
        found = np.bincount(codes_N.cpu().numpy(), minlength=len(self.epoch))
        self.epoch += found
        self.recent += found


def figures(counts_K: np.ndarray) -> dict[str, float]:
    """`utilisation`: share of codes in use, and `perplexity`: exp of the entropy of their use, 1 to K."""
    share = counts_K[counts_K > 0] / max(counts_K.sum(), 1)
    return {"utilisation": len(share) / len(counts_K), "perplexity": float(np.exp(-(share * np.log(share)).sum()))}


def dead(counts_K: np.ndarray, below: float) -> np.ndarray:
    """Codes used less than `below` times the mean use: (k,) int64."""
    return np.flatnonzero(counts_K < below * counts_K.mean())


@torch.no_grad()
def reseed(book: nn.Parameter, dead_K: np.ndarray, vectors_ND: Tensor, optimizer: torch.optim.Optimizer, draw: np.random.Generator) -> int:
    """Put dead codes between distinct random vectors, as many as there are, and their codes; the optimizer forgets what it knew of them.

    A code right on a vector wins hardly anything but that vector where there are many dimensions: nearly all others are nearer to
    the middle of their cell. A small way from there towards a vector, it takes its side of the cell.

    Returns:
        How many codes were moved.
    """
    chosen = draw.permutation(dead_K)[: len(vectors_ND)]
    codes = torch.from_numpy(chosen).to(book.device)
    vectors_ND = vectors_ND[torch.from_numpy(draw.permutation(len(vectors_ND))[: len(chosen)]).to(book.device)]
    middle_ND = book[nearest(vectors_ND, book)]
    book[codes] = middle_ND + _TOWARDS * (vectors_ND - middle_ND)
    for value in optimizer.state.get(book, {}).values():
        if isinstance(value, Tensor) and value.shape == book.shape:
            value[codes] = 0
    return len(chosen)
