"""Fourteen nights of a shop, retrained as a schedule would: warm incremental runs against full ones, with faults on the way.

    python -m benchmarks.retrain_replay --data data/online_retail --work data/retrain_replay [--report-only]

Two work directories see the same days. Each night a real `jobs/retrain.py` runs on what the shop knows by then; Saturdays are empty.
On one day the file of the day is corrupt at first (exit code 3), on another the run is killed -9 while it trains; both are run again.
Afterwards the champion of each night is ranked on what customers chose the next day, and so is its challenger. A run that was cut off
is taken up again where it stopped.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.figures import record
from benchmarks.retrain_replay_report import describe, plot

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "benchmarks" / "retrain_replay.yaml"
PLOT = ROOT / "docs" / "images" / "retrain_replay.png"
COMMAND = "python -m benchmarks.retrain_replay"
HISTORY_FROM, FIRST, DAYS = datetime.date(2011, 9, 1), datetime.date(2011, 11, 17), 14
CORRUPT, KILLED = datetime.date(2011, 11, 18), datetime.date(2011, 11, 20)
# How an arm differs: the rule that makes every run a full one.
ARMS: Mapping[str, list[str]] = {"incremental": [], "full": ["--retrain.full.every_days=1"]}
_EPOCH = datetime.date(1970, 1, 1)


def nights() -> list[datetime.date]:
    """The calendar days of the replay."""
    return [FIRST + datetime.timedelta(days=place) for place in range(DAYS)]


@dataclass
class Arm:
    """One work directory with its raw files, and what happened there."""

    name: str
    folder: Path
    data: Path
    days: Mapping[datetime.date, pa.Table]

    def __post_init__(self) -> None:
        self.raw, self.work = self.folder / "raw", self.folder / "work"
        self.raw.mkdir(parents=True, exist_ok=True)
        path = self.folder / "events.json"
        self.events: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"runs": [], "faults": []}

    def save(self) -> None:
        """Remember what happened."""
        (self.folder / "events.json").write_text(json.dumps(self.events, indent=1))

    def command(self, day: datetime.date, *more: str) -> list[str]:
        """The scheduled command of one night."""
        extra = f"{{text_emb: {{path: {self.data}/text_emb.parquet}}}}"
        keys = [f"work_dir={self.work}", f"prepare.items.path={self.data}/items.parquet", f"prepare.items.extra={extra}"]
        keys += [f"prepare.interactions.path={self.raw}"]
        arguments = ["--as-of", str(day), "--config", str(CONFIG), *(f"--{key}" for key in keys), *ARMS[self.name], *more]
        return [sys.executable, str(ROOT / "jobs" / "retrain.py"), *arguments]

    def publish(self, day: datetime.date, table: pa.Table | None = None) -> None:
        """Put the file of a day where the shop puts it; nothing for a day without sales."""
        found = self.days.get(day) if table is None else table
        if found is not None:
            pq.write_table(found, self.raw / f"{day}.parquet")

    def run(self, day: datetime.date, *more: str) -> int:
        """Run one night to its end; the exit code."""
        started = time.time()
        with (self.folder / "log.txt").open("a") as log:
            code = subprocess.run(self.command(day, *more), cwd=ROOT, env=environment(), stdout=log, stderr=log, check=False).returncode
        self.events["runs"].append({"day": str(day), "exit_code": code, "seconds": round(time.time() - started, 1)})
        self.save()
        print(f"{self.name} {day}: exit code {code} after {time.time() - started:.0f} s; champion {self.champion()}", flush=True)
        return code

    def champion(self) -> str | None:
        """The version that serves."""
        from mlflow import MlflowClient

        from esans.export.aliases import CHAMPION, current

        return current(MlflowClient(f"sqlite:///{self.work}/mlflow.db"), "replay", CHAMPION)

    def reports(self) -> dict[datetime.date, dict[str, Any]]:
        """Every report by its day."""
        found = [json.loads(path.read_text()) for path in sorted((self.work / "retrain").glob("*/report.json"))]
        return {datetime.date.fromisoformat(report["as_of"]): report for report in found}

    def fault(self, name: str, day: datetime.date, survived: bool) -> None:
        """Note a fault, and whether the old champion served through it."""
        self.events["faults"].append({"fault": name, "day": str(day), "survived": survived})
        self.save()
        print(f"{self.name} {day}: {name}, {'survived' if survived else 'NOT SURVIVED'}", flush=True)

    def had(self, name: str) -> bool:
        """Whether a fault is behind."""
        return any(one["fault"] == name for one in self.events["faults"])


def environment() -> dict[str, str]:
    """Of the job: this checkout."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def days_of(data: Path) -> tuple[pa.Table, dict[datetime.date, pa.Table]]:
    """What the shop knew before the first night's day, and the rows of each later day."""
    rows = pq.read_table(data / "interactions.parquet")
    day = pc.cast(pc.floor(pc.divide(pc.cast(rows["timestamp"], pa.float64()), 86_400.0)), pa.int64())
    number = (FIRST - _EPOCH).days
    start = (HISTORY_FROM - _EPOCH).days
    history = rows.filter(pc.and_(pc.greater_equal(day, start), pc.less(day, number)))
    later = {}
    for place in range(DAYS + 7):
        found = rows.filter(pc.equal(day, number + place))
        if len(found):
            later[FIRST + datetime.timedelta(days=place)] = found
    return history, later


def begin(arm: Arm, history: pa.Table) -> None:
    """The first model, a full run in either arm."""
    if not (arm.raw / "history.parquet").exists():
        pq.write_table(history, arm.raw / "history.parquet")
    eve = FIRST - datetime.timedelta(days=1)
    if eve not in arm.reports() and arm.run(eve) != 0:
        raise SystemExit(f"{arm.name}: the first model was not published; see {arm.folder}/log.txt")


def replay(arm: Arm, day: datetime.date) -> None:
    """Run one night, unless it has its report."""
    if day in arm.reports() and arm.reports()[day]["outcome"] != "data refused":
        return
    if day == CORRUPT and not arm.had("corrupt day"):
        corrupt(arm, day)
    arm.publish(day)
    if day == KILLED and not arm.had("kill -9"):
        killed(arm, day)
    if arm.run(day) not in (0, 4):
        raise SystemExit(f"{arm.name} {day}: see {arm.folder}/log.txt")


def catch_up(arm: Arm) -> None:
    """Run the nights that are left in one process, as after a week without power: what starts a night anew is paid once."""
    left = [day for day in nights() if day not in arm.reports()]
    if left:
        for day in left:
            arm.publish(day)
        if arm.run(left[-1], "--catch-up") not in (0, 4):
            raise SystemExit(f"{arm.name} {left[-1]}: see {arm.folder}/log.txt")


def corrupt(arm: Arm, day: datetime.date) -> None:
    """The file of the day has lost most of its customers; it must be refused, and the champion stay."""
    good = arm.days[day]
    lost = pc.equal(pc.bit_wise_and(good["item_id"], 1), 1)
    users = pc.if_else(lost, pa.scalar(None, good["user_id"].type), good["user_id"])
    arm.publish(day, good.set_column(good.schema.get_field_index("user_id"), "user_id", users))
    before = arm.champion()
    code = arm.run(day)
    arm.fault("corrupt day", day, code == 3 and arm.champion() == before)


def killed(arm: Arm, day: datetime.date) -> None:
    """The run is killed with everything it started once training has begun; the champion must stay."""
    before, started = arm.champion(), time.time()
    known = set((arm.work / "train").glob("*/scratch"))
    with (arm.folder / "log.txt").open("a") as log:
        process = subprocess.Popen(arm.command(day), cwd=ROOT, env=environment(), stdout=log, stderr=log, start_new_session=True)
    while process.poll() is None and set((arm.work / "train").glob("*/scratch")) == known:
        time.sleep(0.1)
    ended = process.poll()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    print(f"{arm.name} {day}: killed -9 after {time.time() - started:.0f} s", flush=True)
    arm.fault("kill -9", day, ended is None and arm.champion() == before and day not in arm.reports())


def next_day_recall(arm: Arm) -> list[dict[str, Any]]:
    """Champion and challenger of each night on what was bought the next day with sales, in the item space of that day's run."""
    from esans.bundle import Bundle
    from esans.export.vectors import read_item_ids
    from esans.retrain.config import GateConfig
    from esans.retrain.contender import opened
    from esans.retrain.judge import POPULARITY, judge
    from esans.retrain.window import TABLE, write_window
    from esans.retrieval.evaluation import Catalogue
    from esans.settings import Source
    from esans.spark import SparkConfig, open_session

    spark = open_session(SparkConfig(master="local[2]", shuffle_partitions=2), "replay")
    config, reports = Source((str(CONFIG),), ()).load().prepare, arm.reports()
    trained = {day: report for day, report in reports.items() if report["bundles"]}
    exports = {report["champion"]: report["bundles"]["export"] for report in trained.values() if report["outcome"] == "published"}
    days, found = sorted(trained), []
    for day, following in pairwise(days):
        prepare = Bundle.open(trained[following]["bundles"]["prepare"])
        window = write_window(spark, prepare, config, [following], 1_000_000, 0, str(arm.folder / "next_day"))
        catalogue, ids = Catalogue.read(prepare), read_item_ids(prepare)
        sides = {"champion": exports[trained[day]["champion"]], "challenger": trained[day]["bundles"]["export"]}
        row: dict[str, Any] = {
            "night": str(day),
            "next_day": str(following),
            "mode": trained[day]["mode"],
            "outcome": trained[day]["outcome"],
        }
        for name, uri in sides.items():
            with opened(name, Bundle.open(uri), ids, prepare) as contender:
                judged = judge(window.table(TABLE), [following], [contender], catalogue, GateConfig())
            row[name] = float(judged.by_user(name, judged.keys[0], "recall").mean())
        row["popularity"] = float(judged.by_user(POPULARITY, judged.keys[0], "recall").mean())
        found.append(
            {
                **row,
                "users": len(judged.users),
                "seconds": trained[day]["seconds"]["all"],
                "train_seconds": trained[day]["seconds"]["train"],
            }
        )
    spark.stop()
    return found


def summarise(arms: Mapping[str, Arm], results: Mapping[str, list[dict[str, Any]]]) -> dict[str, tuple[float, str]]:
    """The figures. Nights with a fault are left out of the seconds, since their runs found stages done."""
    faulty = {str(CORRUPT), str(KILLED)}

    def mean(arm: str, key: str, rows: list[dict[str, Any]]) -> float:
        return sum(row[key] for row in rows) / len(rows)

    # The eve is a full run in either arm.
    plain = {name: [row for row in rows if row["night"] not in faulty and row["night"] >= str(FIRST)] for name, rows in results.items()}
    nights_run = {name: [row for row in rows if row["night"] >= str(FIRST)] for name, rows in results.items()}
    survived = [one["survived"] for arm in arms.values() for one in arm.events["faults"]]
    return {
        "retrain.replay_days": (float(min(sum(day in arm.reports() for day in nights()) for arm in arms.values())), "calendar days an arm"),
        "retrain.faults_survived": (float(sum(survived)), f"of {len(survived)}"),
        "retrain.incremental_vs_full_seconds": (
            mean("incremental", "seconds", plain["incremental"]) / mean("full", "seconds", plain["full"]),
            "ratio of the mean seconds of a run",
        ),
        "retrain.incremental_vs_full_recall50": (
            mean("incremental", "champion", nights_run["incremental"]) / mean("full", "champion", nights_run["full"]),
            "ratio of the champions' mean recall on the next day",
        ),
    }


def main() -> None:
    """Replay, judge, plot, and enter the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "online_retail", help="folder with interactions, items and text_emb")
    parser.add_argument("--work", type=Path, default=ROOT / "data" / "retrain_replay", help="folder of both arms")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--anew", action="store_true", help="forget what an earlier call did")
    parser.add_argument("--catch-up", action="store_true", help="run the nights after the faults in one process an arm, with --catch-up")
    parser.add_argument("--report-only", action="store_true", help="judge what has run, and run nothing")
    parser.add_argument("--dry-run", action="store_true", help="enter no figures")
    options = parser.parse_args()
    data, work = options.data.resolve(), options.work.resolve()
    if options.anew:
        shutil.rmtree(work, ignore_errors=True)
    history, days = days_of(data)
    arms = {name: Arm(name, work / name, data, days) for name in options.arms}
    if not options.report_only:
        # Cut off by a time limit, it must not leave a job behind that holds the lock.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        for arm in arms.values():
            begin(arm, history)
        for day in nights():
            for arm in arms.values():
                if not (options.catch_up and day > KILLED):
                    replay(arm, day)
        for arm in arms.values():
            catch_up(arm)
    results = {}
    for name, arm in arms.items():
        results[name] = next_day_recall(arm)
        for row in results[name]:
            print(
                f"{name} {row['night']} -> {row['next_day']} ({row['mode']}, {row['outcome']}): champion {row['champion']:.4f}, "
                f"challenger {row['challenger']:.4f}, popularity {row['popularity']:.4f}, {row['users']} users, {row['seconds']:.0f} s"
            )
    for name, rows in results.items():
        print(describe(name, rows, FIRST))
    (work / "results.json").write_text(json.dumps(results, indent=1))
    if set(arms) == set(ARMS) and not options.dry_run:
        figures = summarise(arms, results)
        plot(results, {CORRUPT: "corrupt file first", KILLED: "killed first"}, PLOT)
        record(figures, COMMAND + (" --catch-up" if options.catch_up else ""))
        for name, (value, unit) in figures.items():
            print(f"{name} = {value:.4g} {unit}")


if __name__ == "__main__":
    main()
