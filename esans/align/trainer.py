"""Fit the heads, and the codebooks beside them: epochs over windows of items, held-out recall after each, the best epoch kept."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from esans.align.batches import Batch, Draw, HeldOut, hold_out
from esans.align.books import Books
from esans.align.config import AlignConfig
from esans.align.loss import cross_recall, info_nce
from esans.align.model import Aligner, fill_missing
from esans.align.ranks import Ranks
from esans.align.reader import Reader, Rows
from esans.align.start import place_codebooks, sizes
from esans.align.vq import LEVELS, Quantiser
from esans.progress import Bar

Watch = Callable[[int, dict[str, float]], None]


@dataclass
class Curve:
    """What happened in each epoch."""

    loss: list[float] = field(default_factory=list)
    """Mean alignment loss per step."""
    recalls: list[dict[str, float]] = field(default_factory=list)
    """Held-out recall by pair of modalities."""
    books: list[dict[str, float]] = field(default_factory=list)
    """Loss, utilisation and perplexity of the codebooks; empty while there are none."""
    best: int = 0
    """The epoch that was kept."""


class Trainer:
    """AdamW over InfoNCE on the items with two modalities or more, and over the codebooks' loss on all; reports every epoch to `watch`.

    With one modality the heads stay as they are, and only codebooks are trained.
    """

    def __init__(
        self,
        config: AlignConfig,
        model: Aligner,
        reader: Reader,
        seed: int,
        watch: Watch,
        ranks: Ranks,
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        # Codebooks to start from, by level, instead of k-means.
        self.start = start
        self.config, self.model, self.reader, self.seed, self.watch, self.ranks = config, model, reader, seed, watch, ranks
        self.alone = len(model.names) == 1
        model.requires_grad_(not self.alone)
        share = min(config.validation_share, config.max_validation_items / max(reader.num_items, 1))
        quantise = config.codebooks == "vq"
        self.draw = Draw(1 if quantise else 2, 0.0 if self.alone else share, config.batch_size, seed)
        # Heads that were trained with codebooks need no warm-up before they meet them again.
        self.first_joint = (0 if self.alone or start else config.vq.warmup_epochs) if quantise else None
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        self.books: Books | None = None

    def fit(self) -> Curve:
        """Train until the held-out recall stops rising; leaves the best weights in the model, and the codebooks of the same epoch.

        Raises:
            DataError: too few items for the codebooks that are asked for.
        """
        held, curve = hold_out(self.reader, self.ranks, self.draw.validation_share, self.seed), Curve()
        if self.first_joint is not None:
            sizes(self.config.vq, held.assigned)
        best_score, best_state = -math.inf, self._state()
        with Bar("align", total=self.config.epochs, unit="epochs", show=self.ranks.rank == 0) as bar:
            for epoch in range(self.config.epochs):
                self._start_books(epoch, held)
                self._epoch(epoch, curve)
                curve.recalls.append(self.ranks.share(self._recall(held)))
                score = self._score(curve, epoch)
                self.watch(epoch, {"loss": curve.loss[-1], **curve.recalls[-1], **curve.books[-1]})
                bar.update(epoch + 1, f"loss {curve.loss[-1]:.3f}" + (f", held-out recall@10 {score:.3f}" if curve.recalls[-1] else ""))
                # Only an epoch that has codebooks can be the best of a fit that is to give some.
                if epoch == self.first_joint or score > best_score:
                    best_score, best_state, curve.best = score, self._state(), epoch
                elif epoch - curve.best >= self.config.patience and epoch >= (self.first_joint or 0):
                    break
        self._restore(best_state)
        return curve

    def _start_books(self, epoch: int, held: HeldOut) -> None:
        if epoch == self.first_joint:
            vq = self.config.vq
            if self.start is not None:
                quantiser = Quantiser(*(self.start[level] for level in LEVELS)).to(self.ranks.device)
            else:
                quantiser = place_codebooks(vq, self.reader, self._align, held.assigned, self.ranks, self.seed)
            self.books = Books(vq, quantiser, self.optimizer, self.ranks, self.seed)

    def _epoch(self, epoch: int, curve: Curve) -> None:
        self.model.train()
        totals, steps = torch.zeros(2, dtype=torch.float64, device=self.ranks.device), np.zeros(2)
        for batch in self.draw.epoch(self.reader, self.ranks, epoch):
            losses = self._losses(batch)
            weights = (1.0, self.config.vq.weight)
            found = [weight * loss for weight, loss in zip(weights, losses, strict=True) if loss is not None]
            if not found:
                continue
            self.optimizer.zero_grad(set_to_none=True)
            torch.stack(found).sum().backward()
            self.ranks.sum_gradients([self.model, *([self.books.quantiser] if self.books else [])])
            self.optimizer.step()
            if self.books:
                self.books.after_step()
            for place, loss in enumerate(losses):
                if loss is not None:
                    totals[place] += loss.detach()
                    steps[place] += 1
        align, books = (self.ranks.sum(totals.cpu().numpy()) / np.maximum(steps, 1)).tolist()
        curve.loss.append(align)
        curve.books.append({"vq.loss": books, **self.books.end_epoch()} if self.books else {})

    def _losses(self, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
        """This rank's shares of the alignment loss and of the codebooks' loss."""
        config, whose = self.config, batch.whose
        aligned_NMD, present_NM = self._align(batch.rows)
        everyone_NM = self.ranks.gather(present_NM.byte(), whose).bool()
        own_N = torch.from_numpy(whose == self.ranks.rank).to(self.ranks.device) if self.ranks.world_size > 1 else None

        def contrast(vectors_NMD: Tensor) -> Tensor | None:
            return info_nce(self.ranks.gather(vectors_NMD, whose), everyone_NM, config.temperature, own_N)

        alignment = None if self.alone else contrast(aligned_NMD)
        if self.books is None:
            return alignment, None
        if alignment is None:
            # Nothing holds the heads apart in this batch: the codebooks follow the vectors, and not the vectors the codebooks.
            aligned_NMD = aligned_NMD.detach()
        quantised = self.books.quantise(*fill_missing(aligned_NMD, present_NM), whose)
        loss = quantised.codebook_N.sum() / len(batch)
        # Commitment, too, only where a contrast holds against it: else the easiest way to commit is to make all vectors one.
        both_N = everyone_NM.sum(1) >= 2
        if alignment is not None:
            loss = loss + config.vq.commitment * (quantised.commitment_N * (present_NM.sum(1) >= 2)).sum() / both_N.sum()
            if config.vq.quantised:
                again = contrast(normalize(quantised.straight_NMD, dim=-1))
                assert again is not None
                alignment = alignment + config.vq.quantised * again
        return alignment, loss

    def _score(self, curve: Curve, epoch: int) -> float:
        """Higher is better: mean recall; with one modality the codebooks' loss; else the latest epoch."""
        if curve.recalls[-1]:
            return float(np.mean(list(curve.recalls[-1].values())))
        return -curve.books[-1]["vq.loss"] if self.alone else float(epoch)

    @torch.no_grad()
    def _recall(self, held: HeldOut) -> dict[str, float]:
        if held.rows is None or not len(held.rows) or self.alone:
            return {}
        self.model.eval()
        return cross_recall(*self._align(held.rows), self.model.names)

    def _align(self, rows: Rows) -> tuple[Tensor, Tensor]:
        vectors = [torch.from_numpy(x).to(self.ranks.device) for x in rows.vectors]
        return self.model(vectors), torch.from_numpy(rows.present).to(self.ranks.device)

    def _state(self) -> dict[str, Any]:
        books = self.books.quantiser.state_dict() if self.books else None
        return copy.deepcopy({"heads": self.model.state_dict(), "books": books})

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["heads"])
        if self.books:
            self.books.quantiser.load_state_dict(state["books"])
