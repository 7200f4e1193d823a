"""Write realistic tables of any size with Spark: a catalogue with vectors, and people's events with it.

    python -m benchmarks.generate --users 50000 --items 50000 --interactions 1000000 --seed 0 --out /data/made

items.parquet/         item_id long, title, category, text_vector and image_vector (128 floats; 2 % and 20 % are null)
interactions.parquet/  user_id long, item_id long, timestamp long (unix seconds over 180 days), event

Every block of items or users is made from (seed, block) alone: the tables do not depend on cores or cluster.
"""

from __future__ import annotations

import argparse
import atexit
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from benchmarks.world import BLOCK, FIRST_MOMENT, World, item_block, user_block, user_blocks

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

ITEMS_SCHEMA = "item_id long, title string, category string, text_vector array<float>, image_vector array<float>"
EVENTS_SCHEMA = "user_id long, item_id long, timestamp long, event string"
EVENTS = ("click", "cart", "purchase")
_ROWS_PER_BATCH = 8_192


def main() -> None:
    """Write both tables below --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("users", "items", "interactions"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, help="a folder, as Spark and all workers see it")
    parser.add_argument("--content-share", type=float, default=0.8, help="share of choices that follow what vectors show, 0 to 1")
    parser.add_argument("--master", default="local[*]", help="ignored under spark-submit")
    arguments = parser.parse_args()
    from esans.spark import SparkConfig, open_session

    world = World(arguments.users, arguments.items, arguments.interactions, arguments.seed, arguments.content_share)
    spark = open_session(SparkConfig(master=arguments.master, driver_memory="2g"), "generate")
    write(spark, world, arguments.out)
    spark.stop()


def write(spark: SparkSession, world: World, out: str) -> None:
    """Write items.parquet and interactions.parquet below `out`, replacing what is there."""
    _ship(spark)
    items(spark, world).write.mode("overwrite").parquet(f"{out}/items.parquet")
    interactions(spark, world).write.mode("overwrite").parquet(f"{out}/interactions.parquet")


def items(spark: SparkSession, world: World) -> DataFrame:
    """The catalogue, one partition a block."""

    def make(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for block in _blocks(batches):
            yield from _cut(_item_rows(world, block))

    return _per_block(spark, -(-world.items // BLOCK)).mapInArrow(make, ITEMS_SCHEMA)


def interactions(spark: SparkSession, world: World) -> DataFrame:
    """The events, one partition a block of users."""

    def make(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for block in _blocks(batches):
            user, item, moment, event = user_block(world, block)
            names = pa.DictionaryArray.from_arrays(pa.array(event), pa.array(EVENTS)).cast(pa.string())
            columns = [pa.array(user), pa.array(item), pa.array(FIRST_MOMENT + moment), names]
            yield from _cut(pa.table(columns, ["user_id", "item_id", "timestamp", "event"]))

    return _per_block(spark, user_blocks(world)).mapInArrow(make, EVENTS_SCHEMA)


def _ship(spark: SparkSession) -> None:
    # This folder is no part of the installed package: workers get what they run.
    folder, here = Path(tempfile.mkdtemp()), Path(__file__).parent
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with zipfile.ZipFile(folder / "benchmarks.zip", "w") as archive:
        for name in ("__init__.py", "generate.py", "world.py"):
            archive.write(here / name, f"benchmarks/{name}")
    spark.sparkContext.addPyFile(str(folder / "benchmarks.zip"))


def _per_block(spark: SparkSession, blocks: int) -> DataFrame:
    return spark.range(0, blocks, 1, numPartitions=blocks)


def _blocks(batches: Iterator[pa.RecordBatch]) -> Iterator[int]:
    for batch in batches:
        yield from batch.column(0).to_pylist()


def _cut(table: pa.Table) -> Iterator[pa.RecordBatch]:
    yield from table.to_batches(max_chunksize=_ROWS_PER_BATCH)


def _item_rows(world: World, block: int) -> pa.Table:
    made = item_block(world, block)
    title = [f"item {one} of {kind}" for one, kind in zip(made.item.tolist(), made.category.tolist(), strict=True)]
    columns: dict[str, Any] = {
        "item_id": pa.array(made.item),
        "title": pa.array(title),
        "category": pa.array([f"category {kind}" for kind in made.category.tolist()]),
        "text_vector": _lists(made.text, made.has_text),
        "image_vector": _lists(made.image, made.has_image),
    }
    return pa.table(columns)


def _lists(vectors: np.ndarray, there: np.ndarray) -> pa.Array:
    # (n, d) floats as lists, null where not `there`
    offsets = np.concatenate([[0], np.cumsum(np.where(there, vectors.shape[1], 0))]).astype(np.int32)
    masked = pa.array(offsets, pa.int32(), mask=np.concatenate([~there, [False]]))
    return pa.ListArray.from_arrays(masked, pa.array(vectors[there].reshape(-1)))


if __name__ == "__main__":
    main()
