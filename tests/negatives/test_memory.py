"""Virtual negatives cost no d-dimensional tensors, forward or backward (METHOD 4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from esans.negatives.base import Negatives
from esans.negatives.edis import subset_sizes
from esans.negatives.registry import build_samplers, resolve
from esans.negatives.tables import Catalogue
from tests.negatives.conftest import context_of, generator_of, make_batch

ROWS, DIM = 16, 96


class LargestTensor(TorchDispatchMode):
    """Sees the elements of every tensor that any operation gives, the backward pass's among them."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        # An expanded view holds no memory of its own: what counts is the storage.
        sizes = [leaf.untyped_storage().nbytes() // leaf.element_size() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self.elements = max([self.elements, *sizes])
        return out


def largest_of_a_refinement(catalogue: Catalogue, keys: dict[str, object], shape: tuple[int, ...]) -> int:
    sampler = build_samplers(resolve([keys]), catalogue)[0]
    user = F.normalize(torch.randn(ROWS, DIM, generator=generator_of(1)), dim=-1).requires_grad_()
    positive = F.normalize(torch.randn(ROWS, DIM, generator=generator_of(2)), dim=-1).requires_grad_()
    vectors = F.normalize(torch.randn(ROWS, *shape, DIM, generator=generator_of(3)), dim=-1).requires_grad_()
    negatives = Negatives(torch.zeros(ROWS, *shape, dtype=torch.long), torch.ones(ROWS, *shape, dtype=torch.bool))
    with LargestTensor() as seen:
        scores = (vectors.flatten(1, -2) @ user[..., None]).view(ROWS, *shape)
        context = context_of(make_batch([0] * ROWS), user, positive, negative_vectors=vectors)
        terms = sampler.refine(negatives, scores, context)
        torch.cat([group.scores for group in terms], 1).logsumexp(1).sum().backward()
    assert vectors.grad is not None
    return seen.elements


@pytest.mark.parametrize("unit_norm", [True, False])
@pytest.mark.parametrize("parents", [5, 24])
def test_simple_interpolation_never_holds_a_vector_per_virtual(catalogue: Catalogue, parents: int, unit_norm: bool) -> None:
    clusters = 2
    virtuals = ROWS * clusters * len(subset_sizes(parents))
    largest = largest_of_a_refinement(
        catalogue, {"sampler": "easy", "clusters": clusters, "per_cluster": parents, "unit_norm": unit_norm}, (clusters, parents)
    )
    # What is needed: the parents' own vectors, or one weight per virtual and parent.
    assert largest <= max(ROWS * clusters * parents * DIM, virtuals * parents)
    assert largest < virtuals * DIM


@pytest.mark.parametrize("unit_norm", [True, False])
def test_hard_interpolation_holds_nothing_larger_than_the_draws(catalogue: Catalogue, unit_norm: bool) -> None:
    largest = largest_of_a_refinement(catalogue, {"sampler": "hard", "num_negatives": 64, "unit_norm": unit_norm}, (64,))
    assert largest <= ROWS * 64 * DIM


def test_the_watch_sees_vectors_of_virtuals_where_they_are_made() -> None:
    with LargestTensor() as seen:
        _ = torch.ones(4, 6, 3) @ torch.ones(4, 3, 10)
    assert seen.elements == 4 * 6 * 10
