"""The plan: what fits, what breaks first, and how each size counts."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esans.cli import main
from esans.errors import ConfigError
from esans.model.towers import TwoTower
from esans.plan import constants as known
from esans.plan import duration, memory, volume
from esans.plan.duration import Machines
from esans.plan.forecast import Prices, cores_for, forecast
from esans.plan.memory import Room
from esans.plan.sizes import Sizes, filled, id_bytes, sizes_of
from esans.settings import Settings, Source

ROOT = Path(__file__).resolve().parents[2]
CONSTANTS: dict[str, Any] = {
    "command": "",
    "cores": 2,
    "shares": {"examples_per_interaction": 0.8, "test_users_per_user": 0.5, "activity_spread": 2.0},
    "volume": dict.fromkeys(volume.LAWS, 1.0),
    "rest": dict.fromkeys(duration.ORDER, 1000.0),
    "seconds": {stage: {"fixed": 5.0, "each": 1e-6} for stage in duration.GROWS_WITH}
    | {"train": {"fixed": 5.0, "each_example": 1e-5, "each_vector": 1e-5, "each_table_byte": 1e-10}},
    "assumed": {
        "tflops": 100.0,
        "gigabytes_per_second": 1000.0,
        "share_reached": 0.5,
        "step_overhead_seconds": 0.0,
        "share_of_cores_busy": 0.5,
        "processor_seconds_per_flop": 4e-11,
    },
}
ROOM = Room(device=80e9, host=1e12, driver=128e9, disk=None, ranks_per_host=8)


def settings(*overrides: str) -> Settings:
    return Source((str(ROOT / "conf" / "cluster.yaml"),), overrides).load("esans")


def sizes(users: float = 1e8, items: float = 1e7, interactions: float = 1e9, *overrides: str) -> Sizes:
    return sizes_of(settings(*overrides), users, items, interactions, 384, 0, 8)


def test_the_model_of_a_plan_is_as_large_as_the_one_that_is_built() -> None:
    config = settings("--train.model.user_id=true", "--train.model.dim=16", "--train.model.hidden=32", "--align.dim=12")
    planned = sizes_of(config, 300, 200, 1000, 384, 0)
    model = TwoTower(config.train.model, 200, 300, planned.history, planned.content_dim, [])
    assert planned.content_dim == 24
    assert planned.weights == pytest.approx(sum(weight.numel() for weight in model.parameters()), rel=0.05)


@pytest.mark.parametrize(("method", "vectors"), [("uniform", None), ("esans", 15), ("in_batch", 0), ("mixgcf", 32)])
def test_the_item_vectors_of_a_method_are_counted(method: str, vectors: int | None) -> None:
    found = sizes_of(Source((str(ROOT / "conf" / "cluster.yaml"),), ()).load(method), 1e6, 1e5, 1e7, 384, 0).negatives
    assert found == vectors if vectors is not None else found >= 1


@given(st.floats(1, 1e9), st.integers(1, 1000))
def test_a_window_is_filled_up_to_the_mean_and_never_beyond_its_places(mean: float, places: int) -> None:
    assert 0 < filled(mean, places) <= min(mean, places) * (1 + 1e-9)


@given(st.floats(2, 1e12))
def test_ids_take_the_bytes_that_tell_them_apart(count: float) -> None:
    assert 2 ** (8 * id_bytes(count)) == pytest.approx(count, rel=1e-6)


@pytest.mark.parametrize("name", ["users", "items", "interactions"])
def test_more_of_anything_takes_no_less_of_anything(name: str) -> None:
    small = sizes(1e6, 1e5, 1e7)
    large = dataclasses.replace(small, **{name: getattr(small, name) * 4})
    one, other = volume.forecast(small, CONSTANTS), volume.forecast(large, CONSTANTS)
    # More users with as many interactions are less active each: what an example holds of their past shrinks.
    grown = [part for part in one if not (name == "users" and part == "shards.examples")]
    assert all(other[part] >= one[part] for part in grown)
    assert sum(memory.rank(large).values()) >= sum(memory.rank(small).values())
    before, after = (duration.processor_seconds(found, CONSTANTS) for found in (small, large))
    assert all(after[stage] >= before[stage] for stage in duration.ORDER)


def test_stages_from_train_on_count_once_a_method_and_the_others_once() -> None:
    one = dataclasses.replace(sizes(1e6, 1e5, 1e7), methods=("esans",))
    two = dataclasses.replace(one, methods=("esans", "mixed"))
    for name, found in volume.forecast(one, CONSTANTS).items():
        times = 2 if name.partition(".")[0] in volume.METHOD_STAGES else 1
        assert volume.forecast(two, CONSTANTS)[name] == pytest.approx(times * found)


def test_sharding_divides_the_tables_and_more_cores_and_gpus_save_time() -> None:
    whole, spread = sizes(), dataclasses.replace(sizes(), sharded=True)
    assert memory.rank(whole)["embedding tables"] == pytest.approx(8 * memory.rank(spread)["embedding tables"])
    few, many = (duration.seconds(whole, CONSTANTS, Machines(cores, 8)) for cores in (16, 160))
    assert all(many[stage] < few[stage] for stage in duration.SPARK_STAGES)
    slow, fast = (duration.seconds(whole, CONSTANTS, Machines(16, gpus))["train"] for gpus in (1, 8))
    assert fast < slow
    assert duration.step_seconds(whole, CONSTANTS, Machines(16, 8, 1e5)) == pytest.approx(whole.batch / 8e5)


@pytest.mark.parametrize("hours", [1.0, 4.0, 24.0])
def test_as_many_cores_are_named_as_end_in_time_and_not_many_more(hours: float) -> None:
    cores = cores_for(hours, sizes(), CONSTANTS)

    def took(count: int) -> float:
        found = duration.seconds(sizes(), CONSTANTS, Machines(count, 8))
        return sum(found[stage] for stage in duration.SPARK_STAGES) / 3600

    assert took(cores) <= hours * 1.001
    assert cores == 4 or took(cores - 4) > hours


def test_what_breaks_first_fits_just_below_and_does_not_at_the_factor_that_is_named() -> None:
    plan = forecast(sizes(), CONSTANTS, Machines(64, 8), ROOM, Prices(2.0, 0.1))
    factor = plan["first_to_break"]["factor"]

    def judge(scale: float) -> memory.Limit:
        return memory.limits(memory.grown(sizes(), scale), ROOM, 0, 8)[0]

    assert judge(factor * 1.01).share > 1 > judge(factor * 0.99).share
    assert plan["first_to_break"]["name"] == judge(factor * 1.01).name
    assert plan["price"] == pytest.approx(plan["spark_hours"] * 64 * 0.1 + plan["torch_hours"] * 8 * 2.0)
    assert sum(plan["bytes_of_stages"].values()) == pytest.approx(plan["disk"])


def test_a_hundred_million_users_with_a_vector_each_do_not_fit_a_gpu_and_the_cure_is_sharding() -> None:
    found = memory.limits(dataclasses.replace(sizes(), user_table=True), ROOM, 0, 8)[0]
    assert found.share > 1
    assert "GPU" in found.name
    assert "train.model.tables=sharded" in found.cure


def test_the_constants_in_the_package_are_whole_and_say_where_they_come_from() -> None:
    found = known.load()
    assert set(found["volume"]) == set(volume.LAWS)
    assert set(found["seconds"]) == set(duration.ORDER)
    assert found["command"] == "python -m benchmarks.plan_constants --work FOLDER"
    assert len(found["measured_on"]) == 2
    assert all(math.isfinite(value) and value > 0 for value in found["volume"].values())


def test_a_file_of_constants_that_is_none_says_what_writes_one(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    for path in (tmp_path / "x.json", tmp_path / "absent.json"):
        with pytest.raises(ConfigError, match="`python -m benchmarks.plan_constants --work FOLDER` writes it"):
            known.load(path)


def test_the_command_prints_what_fits_and_what_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "--users", "1e8", "--items=1e7", "--interactions", "1e9", "--gpus", "8", "--config", str(ROOT / "conf" / "cluster.yaml")])
    shown = capsys.readouterr().out
    assert "100,000,000 users, 10,000,000 items, 1,000,000,000 interactions" in shown
    assert "executors of 4 cores" in shown
    assert "run `make gpu-check`" in shown
    assert "first to stop fitting" in shown or "all would fit at" in shown


def test_its_json_holds_the_whole_plan(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--users=1e6", "--items=1e5", "--interactions=1e7", "--disk-gb=0.5"]
    main(["plan", *small, "--examples-per-interaction=0.25", "--json", "--config", str(ROOT / "conf" / "cluster.yaml")])
    plan = json.loads(capsys.readouterr().out)
    assert plan["examples"] == 2.5e6
    assert set(plan["seconds"]) == set(duration.ORDER)
    assert next(limit for limit in plan["limits"] if limit["name"] == "disk of the work directory")["share"] > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--items=1", "--interactions=1"], "esans plan needs --users=N"),
        (["--users=many", "--items=1", "--interactions=1"], "--users=many: must be a number"),
        (["--users=0", "--items=1", "--interactions=1"], "--users=0: must be a number of at least 1"),
        (["--users=1", "--items=1", "--interactions=1", "--examples-per-interaction=3"], "must be a share, above 0 and at most 1"),
    ],
)
def test_a_size_that_is_missing_or_none_is_a_configuration_error(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["plan", *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
