"""LightGCN over blocks of the graph (He et al. 2020, "LightGCN"): a vector is the mean of what 0, 1, .. L steps of averaging make of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.nn.conv import LGConv

from esans.features.adjacency import Adjacency, array
from esans.features.sampling import Block, neighbourhoods

# Messages of one chunk of the inference: this many floats.
_FLOATS = 16_000_000
_ROWS = 65_536


class Propagation(nn.Module):
    """No weights of its own: the item vectors are all there is to learn."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        # Weights come normalised by the degrees in the whole graph, which a sub-graph does not know.
        self.convolutions = nn.ModuleList(LGConv(normalize=False) for _ in range(layers))

    def forward(self, rows_ND: Tensor, blocks: Sequence[Block]) -> Tensor:
        """Vectors of the targets of the last block.

        Args:
            rows_ND: table rows of the nodes of the first block (of the items themselves where there is no block).
            blocks: one a layer, from the outermost inwards.

        Returns:
            (n, d) mean over the layers.
        """
        vectors_ND, total_ND = rows_ND, rows_ND
        for convolution, block in zip(self.convolutions, blocks, strict=True):
            vectors_ND, targets = _apply(convolution, vectors_ND, block)
            total_ND = total_ND[targets] + vectors_ND
        return total_ND / (len(blocks) + 1)


def _apply(convolution: nn.Module, vectors_ND: Tensor, block: Block) -> tuple[Tensor, Tensor]:
    device = vectors_ND.device
    edges = torch.from_numpy(np.stack([block.source, block.target])).to(device)
    targets = torch.from_numpy(block.targets).to(device)
    return convolution(vectors_ND, edges, torch.from_numpy(block.weight).to(device))[targets], targets


@torch.no_grad()
def infer(graph: Adjacency, table: np.ndarray, propagation: Propagation, folder: Path, device: torch.device) -> np.ndarray:
    """(N, d) vectors of all items with their whole neighbourhoods, layer by layer and chunk by chunk, in files.

    Memory: one chunk of messages. Disk: two more arrays of the size of the table.
    """
    dim, nobody = table.shape[1], np.random.default_rng(0)
    total = array(folder, "total", table.shape, np.float32)
    total[:] = table
    below = table
    for layer, convolution in enumerate(propagation.convolutions):
        # Of two layers only the last but one is read, so two files take turns.
        above = array(folder, f"layer{layer % 2}", table.shape, np.float32)
        for start, stop in graph.slices(max(_FLOATS // dim, 1)):
            (block,) = neighbourhoods(graph, np.arange(start, stop), 1, None, nobody)
            vectors, _ = _apply(convolution, torch.from_numpy(np.asarray(below[block.nodes])).to(device), block)
            above[start:stop] = vectors.cpu().numpy()
            total[start:stop] += above[start:stop]
        below = above
    for start in range(0, len(total), _ROWS):
        total[start : start + _ROWS] /= len(propagation.convolutions) + 1
    return total
