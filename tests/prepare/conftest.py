"""Small raw tables, written where a config can name them, and a prepare stage that remembers nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from esans.bundle import Bundle, BundleWriter
from esans.config import build, merge, to_dict
from esans.prepare.config import PrepareConfig
from esans.prepare.stage import Prepare
from esans.spark import SparkConfig
from esans.stage import StageContext
from esans.tracking import TrackingConfig

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DAY = 86_400
START = 1_600_000_000


class Quiet:
    """Takes the place of an MLflow run."""

    def __init__(self) -> None:
        self.artifacts: list[str] = []

    def figure(self, figure: Any, path: str) -> None:
        self.artifacts.append(path)

    def text(self, text: str, path: str) -> None:
        self.artifacts.append(path)


def items_of(*ids: Any, **columns: list[Any]) -> dict[str, list[Any]]:
    return {"item_id": list(ids), **columns}


def events_of(*rows: tuple[Any, ...], names: str = "user_id item_id timestamp") -> dict[str, list[Any]]:
    """Columns of events given as rows; days stand for times below a million."""
    columns = {name: [row[place] for row in rows] for place, name in enumerate(names.split())}
    if "timestamp" in columns:
        columns["timestamp"] = [START + t * DAY if isinstance(t, int) and 0 <= t < 1_000_000 else t for t in columns["timestamp"]]
    return columns


# Three users with four items each, in an order of their own: enough for every split that looks at users.
EVENTS = events_of(*[(user, (user + step) % 5, step) for user in (1, 2, 3) for step in range(4)])
ITEMS = items_of(0, 1, 2, 3, 4)


@pytest.fixture
def raw(tmp_path: Path) -> Callable[..., PrepareConfig]:
    """Write raw tables and make the config that names them."""

    def make(
        items: dict[str, list[Any]] | pa.Table = ITEMS, events: dict[str, list[Any]] | pa.Table = EVENTS, /, **over: Any
    ) -> PrepareConfig:
        for name, table in (("items", items), ("interactions", events)):
            pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), tmp_path / f"{name}.parquet")
        base = {
            "items": {"path": str(tmp_path / "items.parquet")},
            "interactions": {"path": str(tmp_path / "interactions.parquet"), "columns": {"timestamp": "timestamp"}},
        }
        return build(PrepareConfig, merge(base, over), "prepare")

    return make


@pytest.fixture
def prepare(raw: Callable[..., PrepareConfig], spark: SparkSession, tmp_path: Path) -> Callable[..., Bundle]:
    """Write raw tables, run the whole stage and return its bundle."""
    count = iter(range(100))

    def run(*tables: Any, seed: int = 0, **over: Any) -> Bundle:
        return run_stage(raw(*tables, **over), str(tmp_path / f"bundle{next(count)}"), seed)

    return run


def run_stage(config: PrepareConfig, uri: str, seed: int = 0) -> Bundle:
    context = StageContext(seed, "", SparkConfig(), TrackingConfig(), run=Quiet())  # type: ignore[arg-type]
    out = BundleWriter(uri, "prepare", "0")
    inputs = {"previous": Bundle.open(config.previous)} if config.previous else {}
    Prepare(config, context).run(inputs, out)
    return out.finish(code_version=1, config=to_dict(config, results_only=True), inputs={})


def rows(bundle: Bundle, table: str, *columns: str) -> list[tuple[Any, ...]]:
    """Sorted rows of a bundle table."""
    read = bundle.table(table).arrow(columns or None)
    return sorted(zip(*[read.column(name).to_pylist() for name in (columns or read.column_names)], strict=True), key=str)


def named_histories(bundle: Bundle) -> dict[tuple[str, str], dict[str, list[str]]]:
    """(user id, split) -> history, targets, seen, all in outside ids."""
    items = dict(rows(bundle, "items", "item_idx", "item_id"))
    users = dict(rows(bundle, "users", "user_idx", "user_id"))
    read = bundle.table("histories").arrow().to_pylist()
    return {
        (users[row["user_idx"]], row["split"]): {name: [items[i] for i in row[name]] for name in ("history", "targets", "seen")}
        for row in read
    }
