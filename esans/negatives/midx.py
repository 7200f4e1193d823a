"""Query-aware negatives from the clusters (MIDX)."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from esans.negatives.base import Batch, Context, Negatives, Sampler
from esans.negatives.clusters import draw_members
from esans.negatives.config_global import MidxConfig
from esans.negatives.tables import Catalogue


class Midx(Sampler):
    """Clusters that the user scores high, an item at random inside each: a global group with exact log Q, METHOD 4b and 6.

    Q(i | u) = softmax_c(u . mean_c / tau + log size_c) / size_c, which draws hard items often and corrects for it. The mean
    of a cluster runs over the item vectors that the steps met there, so that it follows the towers; before the first step
    all means are 0 and the draw is uniform. Means, their masses and the temperature go into checkpoints.

    Items without a cluster are never drawn: beside no other global group they are never a negative.
    """

    Config = MidxConfig

    config: MidxConfig
    log_size_P: Tensor
    mean_PD: Tensor
    mass_P: Tensor
    temperature: Tensor

    def __init__(self, config: MidxConfig, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.tables = catalogue.require_clusters(self.name)
        primaries, dim = len(self.tables.primary_count_P), catalogue.require_dim(self.name)
        self.register_buffer("log_size_P", self.tables.primary_count_P.log(), persistent=False)
        self.register_buffer("mean_PD", torch.zeros(primaries, dim))
        self.register_buffer("mass_P", torch.zeros(primaries))
        # 1 until the loss's is known: with means of 0 it does not matter.
        self.register_buffer("temperature", torch.tensor(config.temperature or 1.0))

    def _logits(self, user_BD: Tensor) -> Tensor:
        """(B, P) float32: of one item of each cluster, u . mean_c / tau."""
        return user_BD.detach().to(self.mean_PD.dtype) @ self.mean_PD.T / self.temperature

    def propose(self, batch: Batch, user_BD: Tensor, generator: Generator) -> Negatives:
        """Draw (B, num_negatives) ids with replacement: clusters by the inverse of their distribution function."""
        # In float64, since a float32 sum would bend the chance of rare clusters, whose terms weigh most.
        sums_BP = torch.softmax(self._logits(user_BD).double() + self.log_size_P, dim=1).cumsum(1)
        at_Bn = torch.rand(len(batch), self.config.num_negatives, generator=generator, device=user_BD.device, dtype=torch.float64)
        clusters_Bn = torch.searchsorted(sums_BP, at_Bn * sums_BP[:, -1:], right=True).clamp_max(sums_BP.shape[1] - 1)
        ids_Bn = draw_members(self.tables, clusters_Bn, 1, generator)[..., 0]
        return Negatives(ids_Bn, valid=~batch.knows(ids_Bn))

    def log_expected_count(self, context: Context, ids: Tensor) -> Tensor:
        """(B, n): num_negatives Q(item | user) with the means that the step drew by; -inf for items without a cluster."""
        logits_BP = self._logits(context.user)
        log_item_BP = logits_BP - torch.logsumexp(logits_BP + self.log_size_P, dim=1, keepdim=True) + math.log(self.config.num_negatives)
        primary = self.tables.item_primary_N[ids]
        place = primary.clamp_min(0)
        counts_Bn = log_item_BP[:, place] if ids.dim() == 1 else log_item_BP.gather(1, place)
        return torch.where(primary >= 0, counts_Bn, -torch.inf)

    def draws_per_example(self, batch: Batch) -> int:
        """num_negatives."""
        return self.config.num_negatives

    def observe(self, context: Context, loss_B: Tensor) -> None:
        """Move the means by the vectors of the positives and of the draws; follow the loss's temperature."""
        if context.negatives is not None:
            self._move(context.negatives.ids.flatten(), context.negative_vectors.flatten(0, -2))
        self.wait(context)

    def wait(self, context: Context) -> None:
        """The same before the group enters, from the positives alone."""
        self._move(context.batch.target, context.positive_vector)
        if self.config.temperature is None:
            mean = context.temperature.detach().mean().to(self.temperature.dtype)
            self.temperature = torch.where(torch.isfinite(mean), mean, self.temperature)

    @torch.no_grad()
    def _move(self, ids_n: Tensor, vectors_nD: Tensor) -> None:
        """A plain mean up to `memory` vectors, then one that forgets the oldest."""
        primary_n = self.tables.item_primary_N[ids_n]
        # Items without a cluster go to a spare last place, and vectors of a step that the guard will skip.
        place_n = torch.where((primary_n >= 0) & torch.isfinite(vectors_nD).all(1), primary_n, len(self.mass_P))
        primaries, dim = self.mean_PD.shape
        sum_PD = self.mean_PD.new_zeros(primaries + 1, dim).index_add_(0, place_n, vectors_nD.to(self.mean_PD.dtype))[:-1]
        met_P = self.mass_P.new_zeros(primaries + 1).index_add_(0, place_n, self.mass_P.new_ones(len(place_n)))[:-1]
        total_P = self.mass_P + met_P
        self.mean_PD = self.mean_PD + (sum_PD - met_P[:, None] * self.mean_PD) / total_P.clamp_min(1.0)[:, None]
        self.mass_P = total_P.clamp_max(self.config.memory)
