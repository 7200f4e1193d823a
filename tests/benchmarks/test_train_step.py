"""The measurements of a training step, small: what they compare is what they say."""

from __future__ import annotations

import pytest

from benchmarks.training import breakdown, compare
from benchmarks.training.setting import METHODS, MadeUp, config_of


@pytest.fixture(scope="module")
def world() -> MadeUp:
    return MadeUp(items=3_000, batch=16, device="cpu")


def test_all_methods_encode_as_many_items_and_parts_add_up_to_the_step(world: MadeUp) -> None:
    batches = world.batches(2)
    trainers = {name: world.trainer(config_of(groups, 16)) for name, groups in METHODS.items()}
    for trainer in trainers.values():
        cost = sum(sampler.encodings_per_example(batches[0]) for sampler in trainer.module.negatives.samplers)  # type: ignore[operator,misc]
        assert cost == 15
    times = compare.step_times(trainers, batches, 2)
    assert {name: len(seconds) for name, seconds in times.items()} == dict.fromkeys(METHODS, 2)
    assert compare.memory(trainers["esans"], batches[0]) > 0
    found = breakdown.parts(trainers["esans"], batches, 1)
    assert {"users", "items", "draws: easy", "terms: easy", "draws: hard", "loss", "backward", "optimiser"} <= set(found)
    assert sum(value for name, value in found.items() if name != "step") == pytest.approx(found["step"])
    # The wrappers are gone.
    assert "encode" not in vars(trainers["esans"].module)
    flops, moved = breakdown.used(trainers["esans"], batches[0])
    assert flops > 0
    assert moved > 0
