"""Fit LightGCN's item table on pairs of the graph: InfoNCE over the batch, corrected for popularity, stopped by held-out pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from esans.features.config import LightGcnConfig
from esans.features.item_table import ItemTable
from esans.features.propagation import Propagation
from esans.features.sampling import Pairs, neighbourhoods
from esans.hashing import GOLDEN, salted
from esans.progress import Bar

_HELD_OUT_BATCHES = 4
_HASH_STEPS = 1 << 20
# Other than what other hashes are salted with: pairs are held out by themselves.
_PAIRS = 0x632BE59BD9B4E019
# Streams of random numbers: what one draws must not shift what another draws.
_HOLD, _TRAIN, _WATCH = range(3)


def info_nce(first_BD: Tensor, second_BD: Tensor, items_B: tuple[Tensor, Tensor], log_chance_B: Tensor, temperature: float) -> Tensor:
    """Mean of -log softmax of the pair's second item among all second items of the batch, less their log chances (METHOD 4b, in_batch).

    Args:
        first_BD: unit vectors of the first items.
        second_BD: unit vectors of the second items.
        items_B: first and second item of each pair; the same item at another place is no negative.
        log_chance_B: log of the chance to be drawn as a second item; the positive is not corrected.
        temperature: above 0.
    """
    first_B, second_B = items_B
    scores_BB = first_BD @ second_BD.T / temperature
    eye_BB = torch.eye(len(first_B), dtype=torch.bool, device=scores_BB.device)
    same_BB = (second_B[None, :] == second_B[:, None]) | (second_B[None, :] == first_B[:, None])
    # log(1 / (B q)): with this the mean over the batch estimates the sum over all items, so the scale of the positive is right too.
    corrected_BB = scores_BB - log_chance_B[None, :] - math.log(max(len(first_B) - 1, 1))
    corrected_BB = torch.where(eye_BB, scores_BB, corrected_BB.masked_fill(same_BB, -torch.inf))
    return (corrected_BB.logsumexp(dim=1) - scores_BB.diagonal()).mean()


def held_out(first: np.ndarray, second: np.ndarray, num_items: int, share: float, seed: int) -> np.ndarray:
    """(n,) bool: a fixed pseudo-random `share` of pairs, the same in both directions, by a hash, so that no list is kept."""
    key = np.minimum(first, second) * np.int64(num_items) + np.maximum(first, second)
    hashed = salted(key, seed * GOLDEN + _PAIRS)
    return (hashed % np.uint64(_HASH_STEPS)).astype(np.int64) < int(share * _HASH_STEPS)


@dataclass
class Curve:
    """What happened in each epoch."""

    loss: list[float] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)
    """Loss of pairs that were never trained on; NaN where there is none."""
    steps: int = 0
    taken_back: bool = False
    """Whether the table was put back to where the fit began."""


class Contrast:
    """Row-wise Adagrad on sampled sub-graphs; the device holds the rows of one step."""

    def __init__(self, config: LightGcnConfig, pairs: Pairs, table: ItemTable, seed: int, device: torch.device) -> None:
        self.config, self.pairs, self.table, self.seed, self.device = config, pairs, table, seed, device
        self.propagation = Propagation(config.layers).to(device)
        self.steps = max(1, min(math.ceil(pairs.linked * config.draws_per_item / config.batch_size), config.max_steps_per_epoch))
        share = min(config.held_out_share, 0.5)
        self._hold = lambda first, second: held_out(first, second, pairs.graph.num_items, share, seed)

    def fit(self, began: bool = False) -> Curve:
        """Train until the held-out loss stops falling.

        Args:
            began: the table was trained before: where training makes it no better on held-out pairs, it is put back as it was.
        """
        curve, best, patience = Curve(), math.inf, self.config.patience
        watched = list(self._held_out())
        before = self._watch(watched) if began else math.nan
        if math.isfinite(before):
            best = before
            self.table.remember()
        with Bar("lightgcn", total=self.steps * self.config.epochs, unit="steps") as bar:
            for epoch in range(self.config.epochs):
                losses = []
                for step, (first, second) in enumerate(self._batches(epoch)):
                    random = np.random.default_rng([self.seed, _TRAIN, epoch, step, 1])
                    losses.append(self._step(first, second, random))
                    curve.steps += 1
                    bar.update(curve.steps, f"loss {losses[-1]:.3f}")
                curve.loss.append(float(np.mean(losses)) if losses else math.nan)
                curve.held_out.append(self._watch(watched))
                if curve.held_out[-1] >= best:
                    patience -= 1
                    if patience <= 0:
                        break
                else:
                    patience = self.config.patience
                best = min(best, curve.held_out[-1])
        if curve.held_out[-1] >= before:
            self.table.put_back()
            curve.taken_back = True
        return curve

    def _batches(self, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for step in range(self.steps):
            random = np.random.default_rng([self.seed, _TRAIN, epoch, step, 0])
            first, second = self.pairs.draw(self.config.batch_size, random)
            kept = ~self._hold(first, second)
            if kept.sum() > 1:
                yield first[kept], second[kept]

    def _held_out(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """A few batches of held-out pairs, out of as many draws as it takes on average."""
        draws = math.ceil(self.config.batch_size / max(min(self.config.held_out_share, 0.5), 1e-9)) if self.config.held_out_share else 0
        for number in range(_HELD_OUT_BATCHES if draws else 0):
            first, second = self.pairs.draw(min(draws, 1 << 20), np.random.default_rng([self.seed, _HOLD, number]))
            kept = self._hold(first, second)
            if kept.sum() > 1:
                yield first[kept][: self.config.batch_size], second[kept][: self.config.batch_size]

    def _step(self, first: np.ndarray, second: np.ndarray, random: np.random.Generator) -> float:
        nodes, rows, loss = self._loss(first, second, random)
        loss.backward()
        self.table.update(nodes, rows)
        return float(loss.detach())

    def _watch(self, batches: list[tuple[np.ndarray, np.ndarray]]) -> float:
        with torch.no_grad():
            losses = [
                float(self._loss(first, second, np.random.default_rng([self.seed, _WATCH, number]))[2])
                for number, (first, second) in enumerate(batches)
            ]
        return float(np.mean(losses)) if losses else math.nan

    def _loss(self, first: np.ndarray, second: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, Tensor, Tensor]:
        items, place = np.unique(np.concatenate([first, second]), return_inverse=True)
        blocks = neighbourhoods(self.pairs.graph, items, self.config.layers, self.config.fan_out, random)
        nodes = blocks[0].nodes if blocks else items
        rows = self.table.rows(nodes, self.device)
        vectors = F.normalize(self.propagation(rows, blocks), dim=1)
        left, right = (torch.from_numpy(part).to(self.device) for part in (place[: len(first)], place[len(first) :]))
        chance = torch.from_numpy(np.asarray(self.pairs.log_chance[second])).to(self.device)
        return nodes, rows, info_nce(vectors[left], vectors[right], (left, right), chance, self.config.temperature)
