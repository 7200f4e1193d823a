"""Evaluate a model on the users of one split, shared between the processes of torch.distributed where there are several."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from esans.retrieval.config import MetricsConfig
from esans.retrieval.encode import Towers, encode_users, one_thread
from esans.retrieval.evaluation import Catalogue, Evaluation, evaluate_batches
from esans.retrieval.ragged import Ragged
from esans.retrieval.scorers import DotScorer
from esans.retrieval.slices import Slices
from esans.retrieval.topk import ITEM_CHUNK
from esans.retrieval.users import UserBatch, user_batches
from esans.table import Table


@torch.inference_mode()
def evaluate_users(
    model: Towers,
    item_vectors: Tensor,
    histories: Table,
    split: str,
    catalogue: Catalogue,
    config: MetricsConfig,
    *,
    slices: Slices | None = None,
    rank: int = 0,
    world_size: int = 1,
    user_batch: int = 512,
    item_chunk: int = ITEM_CHUNK,
    device: torch.device | str = "cpu",
    on_batch: Callable[[UserBatch, Ragged], None] | None = None,
    before_reduce: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Exact metrics over all users of `split`, the same on every rank and for every number of ranks.

    Users go to ranks by whole batches, and what the ranks add up are integers.

    Args:
        model: the trained towers, on `device`.
        item_vectors: (num_items, dim) from `encode_catalogue`, on `device`.
        histories: the prepare bundle's table.
        split: validation or test.
        catalogue: the items.
        config: metrics and slices.
        slices: in place of those of the config.
        rank: this process.
        world_size: how many processes share the users; above 1, torch.distributed must be initialised.
        user_batch: users encoded at a time; may change vectors in their last bits, as any other batching does.
        item_chunk: items ranked at a time; changes memory, never results.
        device: where the model and scores live.
        on_batch: called with each batch of this rank and its ranks.
        before_reduce: called once, before the ranks wait for one another.
    """

    def scorer(batch: UserBatch) -> DotScorer:
        with one_thread():
            vectors = encode_users(model, batch, device)
        return DotScorer(vectors, item_vectors)

    evaluation = evaluate_batches(
        user_batches(histories, split, user_batch, rank, world_size),
        scorer,
        catalogue,
        config,
        slices=slices,
        item_chunk=item_chunk,
        device=device,
        on_batch=on_batch,
    )
    before_reduce()
    return evaluation.reduce(device) if world_size > 1 else evaluation
