"""Fit the heads: epochs over windows of items, held-out recall after each, the best epoch kept."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from esans.align.config import AlignConfig
from esans.align.loss import cross_recall, info_nce
from esans.align.model import Aligner
from esans.align.reader import Reader, Rows, concatenate, held_out
from esans.progress import Bar

Watch = Callable[[int, dict[str, float]], None]


@dataclass
class Curve:
    """What happened in each epoch."""

    loss: list[float] = field(default_factory=list)
    """Mean loss per step."""
    recalls: list[dict[str, float]] = field(default_factory=list)
    """Held-out recall by pair of modalities."""
    best: int = 0
    """The epoch that was kept."""


class Trainer:
    """AdamW over InfoNCE on the items with two modalities or more; reports every epoch to `watch`."""

    def __init__(self, config: AlignConfig, model: Aligner, reader: Reader, seed: int, watch: Watch) -> None:
        self.config, self.model, self.reader, self.seed, self.watch = config, model, reader, seed, watch
        self.device = next(model.parameters()).device
        self.share = min(config.validation_share, config.max_validation_items / max(reader.num_items, 1))
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)

    def fit(self) -> Curve:
        """Train until the held-out recall stops rising; leaves the best weights in the model."""
        validation, curve = self._validation(), Curve()
        best_score, best_state = -math.inf, copy.deepcopy(self.model.state_dict())
        with Bar("align", total=self.config.epochs, unit="epochs") as bar:
            for epoch in range(self.config.epochs):
                curve.loss.append(self._epoch(epoch))
                curve.recalls.append(self._recall(validation))
                score = float(np.mean(list(curve.recalls[-1].values()))) if curve.recalls[-1] else float(epoch)
                self.watch(epoch, {"loss": curve.loss[-1], **curve.recalls[-1]})
                bar.update(epoch + 1, f"loss {curve.loss[-1]:.3f}" + (f", held-out recall@10 {score:.3f}" if curve.recalls[-1] else ""))
                if score > best_score:
                    best_score, best_state, curve.best = score, copy.deepcopy(self.model.state_dict()), epoch
                elif epoch - curve.best >= self.config.patience:
                    break
        self.model.load_state_dict(best_state)
        return curve

    def _epoch(self, epoch: int) -> float:
        total, steps = 0.0, 0
        for rows in self._batches(epoch):
            vectors, present_NM = self._tensors(rows)
            loss = info_nce(self.model(vectors), present_NM, self.config.temperature)
            if loss is None:
                continue
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            total, steps = total + float(loss.detach()), steps + 1
        return total / max(steps, 1)

    def _batches(self, epoch: int) -> Iterator[Rows]:
        for window, rows in enumerate(self.reader.windows()):
            places = np.flatnonzero((rows.present.sum(1) >= 2) & ~held_out(rows.item, self.share, self.seed))
            np.random.default_rng([self.seed, epoch, window]).shuffle(places)
            for start in range(0, len(places), self.config.batch_size):
                yield rows.take(places[start : start + self.config.batch_size])

    def _validation(self) -> Rows | None:
        """Held-out items with two modalities or more: about max_validation_items at most."""
        parts = []
        for rows in self.reader.windows():
            parts.append(rows.take(np.flatnonzero((rows.present.sum(1) >= 2) & held_out(rows.item, self.share, self.seed))))
        return concatenate(parts) if parts else None

    @torch.no_grad()
    def _recall(self, rows: Rows | None) -> dict[str, float]:
        if rows is None or not len(rows):
            return {}
        vectors, present_NM = self._tensors(rows)
        return cross_recall(self.model(vectors), present_NM, self.model.names)

    def _tensors(self, rows: Rows) -> tuple[list[Tensor], Tensor]:
        return [torch.from_numpy(x).to(self.device) for x in rows.vectors], torch.from_numpy(rows.present).to(self.device)
