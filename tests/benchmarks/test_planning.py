"""What is fitted comes back: constants of made-up runs that follow the laws exactly, and a comparison that shows what is off."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.plan_check import PAGE, compare, write_page
from benchmarks.plan_constants import ASSUMED, SCALING, fit
from benchmarks.planning.run import timed
from esans.plan import duration, volume
from esans.plan.constants import with_examples
from esans.plan.sizes import Sizes, sizes_of
from esans.settings import Source

ROOT = Path(__file__).resolve().parents[2]
METHODS = {"uniform": 1, "esans": 15}
SHARES = {"examples_per_interaction": 0.8, "test_users_per_user": 0.5, "activity_spread": 2.0}
TRUE: dict[str, Any] = {
    "shares": SHARES,
    "cores": 2,
    "volume": {name: 0.5 + 0.1 * place for place, name in enumerate(volume.LAWS)},
    "rest": {stage: 100.0 * place for place, stage in enumerate(duration.ORDER)},
    "seconds": {
        **{stage: {"fixed": 3.0 + n, "each": SCALING.get(stage, 1e-5 * (n + 1))} for n, stage in enumerate(duration.GROWS_WITH)},
        "train": {"fixed": 8.0, "each_example": 2e-5, "each_vector": 1e-6, "each_table_byte": 1e-10},
    },
    "assumed": ASSUMED,
}


def made_up(users: int, items: int, interactions: int) -> tuple[Sizes, dict[str, Any]]:
    """A run of two methods that took exactly what the laws say under `TRUE`."""
    settings = Source((str(ROOT / "conf" / "quickstart.yaml"),), ()).load("uniform")
    mean = sum(METHODS.values()) / len(METHODS)
    sizes = dataclasses.replace(sizes_of(settings, users, items, interactions, 64, 0), methods=tuple(METHODS), negatives=mean)
    one = dataclasses.replace(sizes, methods=("one",))
    taken, stages = volume.forecast(one, TRUE), {}
    for stage in duration.ORDER:
        parts = {name.partition(".")[2]: size for name, size in taken.items() if name.startswith(f"{stage}.")}
        for method, vectors in METHODS.items():
            mine = dataclasses.replace(one, negatives=vectors)
            spent = duration.processor_seconds(mine, TRUE)[stage]
            clock = duration.seconds(mine, TRUE, duration.Machines(cores=2, gpus=0))[stage]
            key = f"{stage}.{method}" if stage in volume.METHOD_STAGES else stage
            stages[key] = {"bytes": parts, "processor_seconds": spent, "wall_seconds": clock, "facts": {}, "epochs": []}
    counts = {"users": users, "items": items, "interactions": interactions, "examples": volume.examples(sizes, SHARES)}
    more = {"cores": 2, "test_users": users * 0.5, "activity_spread": 2.0, "negatives": METHODS, "methods": list(METHODS)}
    return sizes, {**counts, **more, "stages": stages}


@pytest.fixture(scope="module")
def fitted() -> dict[str, Any]:
    return fit([made_up(3_000, 2_000, 100_000), made_up(20_000, 5_000, 900_000)])


def test_constants_of_runs_that_follow_the_laws_come_back(fitted: dict[str, Any]) -> None:
    assert fitted["volume"] == pytest.approx(TRUE["volume"])
    assert fitted["rest"] == pytest.approx(TRUE["rest"])
    assert fitted["shares"] == pytest.approx(SHARES)
    for stage, law in TRUE["seconds"].items():
        assert fitted["seconds"][stage] == pytest.approx(law, rel=1e-4), stage


def test_a_third_run_is_then_foretold_and_one_of_twice_the_bytes_is_seen_to_be_off(fitted: dict[str, Any], tmp_path: Path) -> None:
    sizes, run = made_up(7_000, 9_000, 300_000)
    found = compare(sizes, run, fitted)
    assert set(found) == {"bytes", "seconds", "clock"}
    counted = compare(sizes, run, with_examples(fitted, 0.4))
    assert counted["bytes"]["shards.examples"][0] < found["bytes"]["shards.examples"][0] * 0.6
    assert counted["bytes"]["features"] == found["bytes"]["features"]
    for rows in found.values():
        assert all(expected == pytest.approx(measured, rel=1e-3) for expected, measured in rows.values())
    for stage in run["stages"].values():
        stage["bytes"] = {part: 2 * size for part, size in stage["bytes"].items()}
    doubled = compare(sizes, run, fitted)
    expected, measured = doubled["bytes"]["together"]
    assert expected / measured == pytest.approx(0.5, rel=1e-3)
    page = tmp_path / "planning.md"
    page.write_text(PAGE.read_text())
    write_page(page, doubled)
    assert "| **0.50** |" in page.read_text()
    again = page.read_text()
    write_page(page, doubled)
    assert page.read_text() == again


def test_time_of_processors_is_counted_over_children_that_have_ended_and_not_while_they_wait() -> None:
    busy = "import time\nend = time.process_time() + 0.8\nwhile time.process_time() < end: pass"
    told = {"time": "", "event": "stage", "status": "finished", "seconds": 9.0}
    tell = f"print(json.dumps({told} | {{'stage': STAGE}}), file=sys.stderr, flush=True)"
    program = f"""
import json, subprocess, sys, time
subprocess.run([sys.executable, '-c', {busy!r}])
{tell.replace("STAGE", "'prepare'")}
time.sleep(1)
{tell.replace("STAGE", "'features'")}
"""
    found = timed([sys.executable, "-c", program])
    assert found["prepare"]["processor_seconds"] > 0.4 > found["features"]["processor_seconds"]
    with pytest.raises(RuntimeError, match="ended with 3"):
        timed([sys.executable, "-c", "raise SystemExit(3)"])
