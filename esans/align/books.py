"""Codebooks in training: their place in the optimizer, how they are used, and the revival of dead codes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from esans.align.config import VQConfig
from esans.align.ranks import Ranks
from esans.align.vq import LEVELS, Quantised, Quantiser, Usage, dead, figures, reseed


class Books:
    """The quantiser of a fit; all ranks hold equal codebooks and draw the same numbers, so they stay equal."""

    def __init__(self, config: VQConfig, quantiser: Quantiser, optimizer: torch.optim.Optimizer, ranks: Ranks, seed: int) -> None:
        self.config, self.quantiser, self.optimizer, self.ranks = config, quantiser, optimizer, ranks
        self.random = np.random.default_rng([seed, 1])
        self.usage = {level: Usage(len(quantiser.books[level])) for level in LEVELS}
        self._seen = dict.fromkeys(LEVELS, 0)
        self._last: tuple[dict[str, Tensor], np.ndarray] | None = None
        self._moved = 0
        optimizer.add_param_group({"params": list(quantiser.parameters()), "lr": config.learning_rate, "weight_decay": 0.0})

    def quantise(self, filled_NMD: Tensor, mean_ND: Tensor, whose: np.ndarray) -> Quantised:
        """Codes and losses of this rank's items of a batch; `whose` is the whole batch."""
        found: Quantised = self.quantiser(filled_NMD, mean_ND)
        for level in LEVELS:
            self.usage[level].add(found.codes[level])
            self._seen[level] += len(whose)
        self._last = ({level: x.detach() for level, x in found.inputs.items()}, whose)
        return found

    def after_step(self) -> None:
        """Once enough items were seen since the last look, put dead codes on vectors of the last batch."""
        assert self._last is not None
        vectors, whose = self._last
        for level in LEVELS:
            book, usage = self.quantiser.books[level], self.usage[level]
            if self._seen[level] < self.config.dead_after * len(book):
                continue
            gone = dead(self.ranks.sum(usage.recent), self.config.dead_below)
            if len(gone):
                self._moved += reseed(book, gone, self.ranks.gather(vectors[level], whose), self.optimizer, self.random)
            usage.recent[:] = 0
            self._seen[level] = 0

    def end_epoch(self) -> dict[str, float]:
        """Utilisation and perplexity of both levels over the epoch, and the codes that were revived; counts start again."""
        found: dict[str, float] = {}
        for level in LEVELS:
            usage = self.usage[level]
            found |= {f"vq.{level}.{name}": value for name, value in figures(self.ranks.sum(usage.epoch)).items()}
            usage.epoch[:] = 0
        found["vq.reseeded"] = float(self._moved)
        self._moved = 0
        return found
