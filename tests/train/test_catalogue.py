"""What samplers are told about the items (contract 3)."""

from __future__ import annotations

from collections.abc import Callable

import torch

from esans.bundle import Bundle
from esans.train.inputs import load_catalogue


def test_samplers_know_the_side_columns_and_the_size_of_item_vectors(make_inputs: Callable[..., dict[str, Bundle]]) -> None:
    inputs = make_inputs()
    catalogue = load_catalogue(inputs["shards"], inputs["cluster"], inputs["features"], 16)
    assert catalogue.dim == 16
    assert set(catalogue.side) == {"price"}
    assert torch.equal(catalogue.side["price"], torch.arange(catalogue.num_items) % 4)
    assert not load_catalogue(inputs["shards"], None).side
