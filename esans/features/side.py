"""Side columns of items as small integer codes; code 0 is missing or unknown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from esans.columns import ITEM_IDX, SIDE_PREFIX
from esans.features.config import SideConfig

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from esans.bundle import Bundle

CODES = "side_codes"
CATEGORY, NUMBER = "category", "number"
_ACCURACY = 10_000


@dataclass(frozen=True)
class Meaning:
    """What the codes of one side column stand for."""

    values: tuple[str, ...] = ()
    """Of a category: value k has code k + 1."""
    edges: tuple[float, ...] = ()
    """Of a number, rising: code 1 lies below the first, code k + 1 from edge k - 1 on."""


@dataclass(frozen=True)
class Coded:
    """Side columns as codes."""

    frame: DataFrame
    """item_idx and one int column `side_<name>` each."""
    cardinality: dict[str, int]
    """Codes of a column lie in [0, cardinality)."""
    meanings: dict[str, Meaning]


def side_codes(items: DataFrame, kinds: Mapping[str, str], config: SideConfig, earlier: Mapping[str, Meaning] | None = None) -> Coded:
    """Codes of every side column.

    Args:
        items: item_idx and one `side_<name>` column per entry of `kinds`.
        kinds: name -> `category` or `number`.
        config: bounds.
        earlier: what codes stood for in an earlier bundle, by name. They stay: new values come after the old ones, and buckets do not move.
    """
    codes, cardinality = items.select(ITEM_IDX, *[SIDE_PREFIX + name for name in kinds]), {}
    meanings: dict[str, Meaning] = {}
    for name, kind in kinds.items():
        encode = _categories if kind == CATEGORY else _numbers
        codes, cardinality[name], meanings[name] = encode(codes, SIDE_PREFIX + name, config, (earlier or {}).get(name, Meaning()))
    return Coded(codes.select(ITEM_IDX, *[SIDE_PREFIX + name for name in kinds]), cardinality, meanings)


def to_table(meanings: Mapping[str, Meaning]) -> pa.Table:
    """Table `side_codes`: column, place, and value or edge."""
    rows = [
        (name, place, value, edge)
        for name, meaning in meanings.items()
        for place, (value, edge) in enumerate([*((value, None) for value in meaning.values), *((None, edge) for edge in meaning.edges)])
    ]
    columns = list(zip(*rows, strict=True)) or [()] * 4
    types = (pa.string(), pa.int32(), pa.string(), pa.float64())
    names = ("column", "place", "value", "edge")
    return pa.table({name: pa.array(column, kind) for name, kind, column in zip(names, types, columns, strict=True)})


def read_meanings(features: Bundle | None) -> dict[str, Meaning]:
    """What the codes of an earlier features bundle stand for; empty where it does not tell."""
    if features is None or not features.has(CODES):
        return {}
    found: dict[str, tuple[list[str], list[float]]] = {}
    for row in features.table(CODES).arrow().sort_by([("column", "ascending"), ("place", "ascending")]).to_pylist():
        values, edges = found.setdefault(row["column"], ([], []))
        if row["value"] is not None:
            values.append(row["value"])
        else:
            edges.append(row["edge"])
    return {name: Meaning(tuple(values), tuple(edges)) for name, (values, edges) in found.items()}


def _categories(items: DataFrame, column: str, config: SideConfig, earlier: Meaning) -> tuple[DataFrame, int, Meaning]:
    """1 is the commonest value; at most max_categories values pass through the driver."""
    from pyspark.sql import functions as F

    counted = items.where(F.col(column).isNotNull()).groupBy(column).count()
    if earlier.values:
        old = items.sparkSession.createDataFrame([(value,) for value in earlier.values], f"`{column}` string")
        counted = counted.join(F.broadcast(old), column, "left_anti")
    room = max(config.max_categories - len(earlier.values), 0)
    new = [row[column] for row in counted.orderBy(F.desc("count"), column).limit(room).select(column).collect()]
    known = [*earlier.values, *new]
    table = items.sparkSession.createDataFrame([(value, code) for code, value in enumerate(known, 1)], f"`{column}` string, code int")
    joined = items.join(F.broadcast(table), column, "left").withColumn(column, F.coalesce("code", F.lit(0)).cast("int")).drop("code")
    return joined, len(known) + 1, Meaning(values=tuple(known))


def _numbers(items: DataFrame, column: str, config: SideConfig, earlier: Meaning) -> tuple[DataFrame, int, Meaning]:
    """Bucket by approximate quantiles (1 is the lowest); equal quantiles make one bucket."""
    from pyspark.sql import functions as F

    finite = F.col(column).isNotNull() & ~F.isnan(column) & (F.abs(column) < F.lit(float("inf")))
    if earlier.edges:
        edges = list(earlier.edges)
        return _bucketed(items, column, finite, edges), len(edges) + 2, earlier
    shares = [place / config.buckets for place in range(1, config.buckets)]
    row = items.where(finite).agg(F.percentile_approx(column, shares, _ACCURACY).alias("edges")).first()
    edges = sorted(set(row["edges"] or [])) if row else []
    return _bucketed(items, column, finite, edges), len(edges) + 2, Meaning(edges=tuple(edges))


def _bucketed(items: DataFrame, column: str, finite: Column, edges: list[float]) -> DataFrame:
    from pyspark.sql import functions as F

    return items.withColumn(column, F.when(finite, _bucket(column, edges)).otherwise(F.lit(0)).cast("int"))


def _bucket(column: str, edges: list[float]) -> Column:
    from pyspark.sql import functions as F

    at_or_above = F.filter(F.array(*[F.lit(float(edge)) for edge in edges]), lambda edge: edge <= F.col(column)) if edges else F.array()
    return F.size(at_or_above) + 1
