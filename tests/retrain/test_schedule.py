"""Which days a call runs, what it says about days that are done, and what it exits with."""

from __future__ import annotations

import datetime
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from esans.cli import main
from esans.config import build
from esans.errors import ConfigError
from esans.retrain import schedule
from esans.retrain.errors import DataRefused, GateRefused, Locked
from esans.retrain.lease import Lease
from esans.retrain.plan import RunPlan, dated, method_of
from esans.retrain.report import page
from esans.retrain.schedule import missed, parse_day, yesterday
from esans.retrain.state import State
from esans.settings import Settings, Source

DAY = datetime.date(2026, 11, 20)
ROOT = Path(__file__).resolve().parents[2]


def before(days: int) -> datetime.date:
    return DAY - datetime.timedelta(days=days)


def state(tmp_path: Path, day: datetime.date = DAY, **over: Any) -> State:
    return State.of(build(Settings, {"work_dir": str(tmp_path), **over}), day)


def report(outcome: str = "published", **over: Any) -> dict[str, Any]:
    code = {"published": 0, "data refused": 3, "gate refused": 4}[outcome]
    return {"outcome": outcome, "message": "so it was", "exit_code": code, "sources": {}, **over}


def test_missed_days_are_those_after_the_last_report_in_order_and_not_too_far_back(tmp_path: Path) -> None:
    assert missed(state(tmp_path), DAY, 14) == [], "without an earlier report nothing was missed"
    state(tmp_path, before(4)).write("report", report())
    state(tmp_path, before(3)).write("failure", report())
    state(tmp_path, before(1), seed=5).write("report", report())
    assert missed(state(tmp_path), DAY, 14) == [before(3), before(2), before(1)]
    assert missed(state(tmp_path), DAY, 2) == [before(2), before(1)]
    state(tmp_path, before(1)).write("report", report("data refused"))
    assert missed(state(tmp_path), DAY, 14) == []


def test_a_folder_belongs_to_a_day_and_the_keys_that_change_results(tmp_path: Path) -> None:
    plain = state(tmp_path)
    assert state(tmp_path, retrain={"lock": {"wait_seconds": 9}, "notify": {"url": "http://x"}}).uri == plain.uri
    assert state(tmp_path, retrain={"gate": {"margin": 0.01}}).uri != plain.uri
    assert state(tmp_path, seed=1).uri != plain.uri
    assert state(tmp_path, before(1)).uri != plain.uri


class _Days:
    """Stands for the runs of single days, to see which of them a call starts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, outcomes: dict[datetime.date, Exception]) -> None:
        self.ran: list[datetime.date] = []
        recorder = self

        class Fake:
            def __init__(self, source: Source, as_of: datetime.date) -> None:
                self.as_of, self.settings, self.state = as_of, source.load(), state(tmp_path, as_of)

            def done(self) -> None:
                return None

            def run(self) -> dict[str, Any]:
                recorder.ran.append(self.as_of)
                if self.as_of in outcomes:
                    raise outcomes[self.as_of]
                return report()

        monkeypatch.setattr(schedule, "Retraining", Fake)


def test_catching_up_runs_each_missed_day_first_and_a_refused_one_keeps_no_later_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state(tmp_path, before(3)).write("report", report())
    days = _Days(monkeypatch, tmp_path, {before(2): DataRefused("corrupt"), before(1): GateRefused("worse")})
    assert schedule.retrain(Source((), ()), DAY, catch_up=True) == 0
    assert days.ran == [before(2), before(1), DAY]
    days.ran.clear()
    schedule.retrain(Source((), ("--retrain.catch_up=latest",)), DAY, catch_up=True)
    schedule.retrain(Source((), ()), DAY)
    assert days.ran == [DAY, DAY]


def test_catching_up_stops_where_another_process_retrains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state(tmp_path, before(3)).write("report", report())
    days = _Days(monkeypatch, tmp_path, {before(2): Locked("held")})
    with pytest.raises(Locked):
        schedule.retrain(Source((), ()), DAY, catch_up=True)
    assert days.ran == [before(2)]


def test_every_ending_has_an_exit_code_of_its_own(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    codes = {}
    for error in (ConfigError("c"), DataRefused("d"), GateRefused("g"), Locked("l")):
        monkeypatch.setattr(schedule, "retrain", lambda *_, error=error: (_ for _ in ()).throw(error))
        with pytest.raises(SystemExit) as stopped:
            main(["retrain", "--as-of", str(DAY)])
        codes[type(error).__name__] = stopped.value.code
    assert codes == {"ConfigError": 2, "DataRefused": 3, "GateRefused": 4, "Locked": 5}
    assert "error: g" in capsys.readouterr().err


def test_the_day_is_yesterday_by_default_and_must_be_one() -> None:
    assert yesterday() == datetime.datetime.now(datetime.UTC).date() - datetime.timedelta(days=1)
    assert parse_day("2026-11-20") == DAY
    with pytest.raises(ConfigError, match="--as-of friday: must be a day"):
        parse_day("friday")


def test_the_method_must_be_clear() -> None:
    assert method_of(build(Settings, {"pipeline": {"methods": ["uniform"]}})) == "uniform"
    assert method_of(build(Settings, {"pipeline": {"methods": ["uniform", "mixed"]}, "retrain": {"method": "mixed"}})) == "mixed"
    with pytest.raises(ConfigError, match=r"retrain\.method: name one of"):
        method_of(build(Settings, {"pipeline": {"methods": ["uniform", "mixed"]}}))


def test_the_data_end_with_the_day_and_the_window_is_kept_from_training() -> None:
    settings = Source((), tuple(dated(build(Settings, {}), DAY))).load()
    assert settings.prepare.until == "2026-11-21"
    split = settings.prepare.split
    assert (split.method, split.test_days, split.validation_days) == ("last_days", 14, 7)


def test_without_a_champion_the_run_is_a_full_one_on_nothing() -> None:
    plan = RunPlan.decide(build(Settings, {}), None, DAY, 100)
    assert (plan.kind, plan.base) == ("full", None)
    assert RunPlan.parse(plan.dump()) == plan
    assert plan.lineage(DAY, 100) == {"full_as_of": "2026-11-20", "full_items": "100"}


def test_a_second_process_leaves_with_code_5_and_is_told_who_works(tmp_path: Path) -> None:
    lock = Lease(str(tmp_path / "retrain" / "lock"), "retrain as of 2026-11-19", 60).acquire()
    command = [sys.executable, "jobs/retrain.py", "--as-of", str(DAY), f"--work_dir={tmp_path}"]
    keys = ["--prepare.interactions.columns.timestamp=timestamp", "--prepare.items.path=i", "--prepare.interactions.path=t"]
    done = subprocess.run([*command, *keys, "--retrain.lock.wait_seconds=0.2"], cwd=ROOT, capture_output=True, text=True, check=False)
    lock.release()
    assert done.returncode == 5, done.stderr
    assert "is held after 0.2 s by retrain as of 2026-11-19, process" in done.stderr


def test_the_page_shows_every_figure_beside_its_bound_and_escapes_what_it_shows() -> None:
    gate = {
        "what": "recall@50",
        "value": 0.2,
        "bound": ">= 0.1",
        "key": "margin",
        "passed": False,
        "champion": 0.3,
        "low": -0.2,
        "high": -0.1,
    }
    finding = {"table": "interactions", "column": "<price>", "what": "psi", "value": None, "bound": "<= 0.5", "key": "k", "passed": None}
    document = {
        "model": "shop",
        "as_of": str(DAY),
        "outcome": "gate refused",
        "message": "<b>no</b>",
        "method": "esans",
        "mode": "full",
        "why": "first",
        "champion_before": None,
        "champion": "1",
        "seconds": {"all": 3.0},
        "mlflow_run_id": None,
        "by_day": {"challenger": {"2026-11-19": 0.1, "2026-11-20": 0.2}},
        "gates": [{**gate, "users": 10}],
        "drift": [finding],
        "bundles": {"train": "file:///x"},
    }
    text = page(document)
    for wanted in ("Retraining of shop as of 2026-11-20: gate refused", "-0.2000 .. -0.1000", "retrain.gate.margin", "&lt;price&gt;"):
        assert wanted in text
    assert "<b>no" not in text
    assert "data:image/png;base64," in text
