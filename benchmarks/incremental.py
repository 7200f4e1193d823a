"""One day more of a real shop: the chain in full, and on top of the day before.   python -m benchmarks.incremental

A full run to one day, then the next day twice: trained from the start, and incrementally from the bundles of the day before
(`esans.retrain.rules.overrides`). Both know the same items, users, splits and test users. Prints seconds by stage and recall@50, and with
--record enters both ratios into benchmarks/figures.json. A folder that an earlier call has filled is not worked through again.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import record
from esans.bundle import Bundle
from esans.flow import Plan, run_stage
from esans.progress import headline, say
from esans.retrain.rules import overrides
from esans.settings import Source

STAGES = ("prepare", "features", "align", "cluster", "shards", "train")
COMMAND = "python -m benchmarks.incremental --record"


def chain(files: Sequence[str], keys: Mapping[str, Any], method: str, stages: Sequence[str] = STAGES) -> dict[str, Bundle]:
    """Run stages under a configuration with some keys put over it; their bundles by stage."""
    over = [f"--{key}={value}" for key, value in keys.items()]
    plan = Plan(Source(tuple(files), tuple(over)).load(method))
    return {name: run_stage(plan, name) for name in stages}


def until(day: datetime.date) -> str:
    """The override value of a date: quoted, since YAML would make a date of it."""
    return f"'{day}'"


def seconds(bundles: Mapping[str, Bundle]) -> dict[str, float]:
    """Seconds that each stage took to write its bundle."""
    return {name: float(bundle.manifest["seconds"]) for name, bundle in bundles.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="conf/quickstart.yaml")
    parser.add_argument("--method", default="esans")
    parser.add_argument("--day", type=datetime.date.fromisoformat, default=datetime.date(2011, 11, 21), help="end of the first run")
    parser.add_argument("--epochs", type=int, default=2, help="most epochs of the incremental run")
    parser.add_argument("--work-dir", default="work/incremental")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("over", nargs="*", help="further keys, as key=value")
    options = parser.parse_args()
    base: dict[str, Any] = dict(argument.split("=", 1) for argument in options.over)
    base |= {"work_dir": options.work_dir, "tracking.system_metrics": False, "prepare.split.method": "last_days"}
    base |= {"prepare.log.write": True, "prepare.split.test_days": 14, "prepare.split.validation_days": 14, "references.item_knn": False}
    files, stages = [options.config], (*STAGES, "references", "evaluate")
    headline(f"in full, until {options.day}")
    first = chain(files, base | {"prepare.until": until(options.day)}, options.method)
    today = base | {"prepare.until": until(options.day + datetime.timedelta(days=1))}
    uris = {name: bundle.uri for name, bundle in first.items()}
    found = {}
    for kind in ("incremental", "full"):
        headline(f"the next day, {kind}")
        more = {"train.epochs": options.epochs} if kind == "incremental" else {}
        found[kind] = chain(files, today | overrides(kind, uris) | more, options.method, stages)  # type: ignore[arg-type]
    _tell(found, options.record)


def _tell(found: Mapping[str, Mapping[str, Bundle]], write: bool) -> None:
    spent = {kind: seconds({name: bundles[name] for name in STAGES}) for kind, bundles in found.items()}
    headline("one day more")
    say(f"{'':14s}{'incremental':>12s}{'full':>12s}")
    for name in STAGES:
        say(f"{name:14s}{spent['incremental'][name]:12.1f}{spent['full'][name]:12.1f}")
    total = {kind: sum(values.values()) for kind, values in spent.items()}
    say(f"{'seconds':14s}{total['incremental']:12.1f}{total['full']:12.1f}")
    recall = {kind: float(bundles["evaluate"].figures["recall@50"]) for kind, bundles in found.items()}
    say(f"{'recall@50':14s}{recall['incremental']:12.4f}{recall['full']:12.4f}")
    cluster = found["incremental"]["cluster"]
    say(f"clusters: {cluster.facts['decision']['kind']}, {cluster.facts['decision']['reason']}")
    features = found["incremental"]["features"].figures
    say(f"behaviour vectors: mean cosine with the day before {features.get('behaviour.kept_cosine', float('nan')):.3f}")
    if write:
        ratio = "incremental / full, one day of online_retail"
        record(
            {
                "incremental.day_seconds": (round(total["incremental"] / total["full"], 3), ratio),
                "incremental.day_recall50": (round(recall["incremental"] / recall["full"], 3), ratio),
            },
            COMMAND,
            Path(__file__).with_name("figures.json"),
        )


if __name__ == "__main__":
    main()
