"""Heads that bring every modality into one space, and what stands in for a missing modality (METHOD 1)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

_SMALL = 1e-6


def linear_head(dim: int, out: int, generator: torch.Generator) -> nn.Module:
    """One matrix without bias: the identity where `dim` equals `out`, else random orthonormal rows or columns, which keep angles."""
    head = nn.Linear(dim, out, bias=False)
    with torch.no_grad():
        if dim == out:
            head.weight.copy_(torch.eye(dim))
        else:
            basis, _ = torch.linalg.qr(torch.randn(max(dim, out), min(dim, out), generator=generator, dtype=torch.float64))
            head.weight.copy_((basis if out > dim else basis.T).float())
    return head


def mlp_head(dim: int, hidden: int, out: int, generator: torch.Generator) -> nn.Module:
    """Two matrices with a GELU between."""
    return nn.Sequential(linear_head(dim, hidden, generator), nn.GELU(), linear_head(hidden, out, generator))


class Aligner(nn.Module):
    """One head a modality; outputs have unit norm.

    Args:
        modalities: name -> length of its vectors, in the order that every tensor here follows.
        dim: d_a.
        hidden: width of the heads' hidden layer; None makes them linear.
        seed: of the initial weights.
    """

    def __init__(self, modalities: Mapping[str, int], dim: int, hidden: int | None, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.names = list(modalities)
        self.heads = nn.ModuleList(
            linear_head(size, dim, generator) if hidden is None else mlp_head(size, hidden, dim, generator) for size in modalities.values()
        )

    def forward(self, vectors: list[Tensor]) -> Tensor:
        """M tensors (n, d_m) -> (n, M, d_a), unit norm."""
        return torch.stack([normalize(head(x), dim=-1) for head, x in zip(self.heads, vectors, strict=True)], dim=1)


def fill_missing(aligned_NMD: Tensor, present_NM: Tensor) -> tuple[Tensor, Tensor]:
    """Replace missing modalities by the renormalised mean of the present ones, never by zeros (METHOD 1).

    Args:
        aligned_NMD: unit vectors; whatever stands at missing places is ignored.
        present_NM: bool, at least one True a row.

    Returns:
        (n, M, d) with every place filled, and (n, d) the plain mean over M (METHOD 2's m_i).
    """
    kept_NMD = aligned_NMD * present_NM.unsqueeze(-1)
    mean_ND = kept_NMD.sum(1) / present_NM.sum(1, keepdim=True).clamp_min(1)
    # Opposite vectors cancel and leave no direction; the first present modality then speaks for the item.
    first_ND = aligned_NMD[torch.arange(len(aligned_NMD)), present_NM.float().argmax(dim=1)]
    mean_ND = torch.where(mean_ND.norm(dim=-1, keepdim=True) > _SMALL, mean_ND, first_ND)
    filled_NMD = torch.where(present_NM.unsqueeze(-1), aligned_NMD, normalize(mean_ND, dim=-1).unsqueeze(1))
    return filled_NMD, filled_NMD.mean(1)
