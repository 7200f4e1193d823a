"""Titles, categories and small pictures of the few items that a page shows, looked up in Spark."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from esans.columns import IMAGE, IMAGE_URI, ITEM_ID, ITEM_IDX, PRIMARY, TEXT, TITLE

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from esans.bundle import Bundle

_LONGEST = 120
_SHARES = 5
_JPEG_QUALITY = 65


@dataclass(frozen=True)
class Caption:
    """How people know an item."""

    item_id: str
    title: str
    category: str | None = None
    image: str | None = None
    """A data URI."""


def captions(spark: SparkSession, prepare: Bundle, items: Sequence[int], category: str | None, pixels: int) -> dict[int, Caption]:
    """Captions of some items: their title, else the start of their text, else their id.

    Args:
        spark: the session.
        prepare: the bundle with `items`, and `images` where there are any.
        items: item_idx; as many rows reach the driver.
        category: a column of items, or None.
        pixels: longer side of the pictures; 0 looks up none.
    """
    from pyspark.sql import functions as F

    table = prepare.table("items").spark(spark)
    title = [F.nullif(F.trim(F.col(name)), F.lit("")) for name in (TITLE, TEXT) if name in table.columns]
    number = F.col(ITEM_ID) if ITEM_ID in table.columns else F.col(ITEM_IDX).cast("string")
    kind = F.col(category).cast("string") if category is not None else F.lit(None).cast("string")
    shown = F.substring(F.coalesce(*title, number), 1, _LONGEST)
    found = _only(table, items).select(ITEM_IDX, number.alias("id"), shown.alias("shown"), kind.alias("kind")).toArrow()
    images = _thumbnails(spark, prepare, items, pixels)
    rows = zip(*(found.column(place).to_pylist() for place in range(4)), strict=True)
    return {item: Caption(str(name), str(text), known, images.get(item)) for item, name, text, known in rows}


def category_shares(codes: DataFrame, prepare: Bundle, category: str, primaries: Sequence[int]) -> dict[int, list[tuple[str, float]]]:
    """The commonest categories of some primaries, with their share of the items that have one: five a primary at most."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    own = codes.where(F.col(PRIMARY).isin([int(c1) for c1 in primaries])).select(ITEM_IDX, PRIMARY)
    known = prepare.table("items").spark(codes.sparkSession).select(ITEM_IDX, F.col(category).cast("string").alias("kind"))
    counts = own.join(known.where(F.col("kind").isNotNull()), ITEM_IDX).groupBy(PRIMARY, "kind").count()
    inside = Window.partitionBy(PRIMARY)
    share = F.col("count") / F.sum("count").over(inside)
    place = F.row_number().over(inside.orderBy(F.col("count").desc(), "kind"))
    top = counts.select(PRIMARY, "kind", share.alias("share"), place.alias("place")).where(F.col("place") <= _SHARES)
    found: dict[int, list[tuple[str, float]]] = {}
    for row in top.toArrow().sort_by([(PRIMARY, "ascending"), ("place", "ascending")]).to_pylist():
        found.setdefault(row[PRIMARY], []).append((row["kind"], row["share"]))
    return found


def _only(table: DataFrame, items: Sequence[int]) -> DataFrame:
    from pyspark.sql import functions as F

    wanted = table.sparkSession.createDataFrame(pa.table({ITEM_IDX: pa.array(items, pa.int64())}))
    return table.join(F.broadcast(wanted), ITEM_IDX)


def _thumbnails(spark: SparkSession, prepare: Bundle, items: Sequence[int], pixels: int) -> dict[int, str]:
    """Data URIs of small JPEGs, made on the workers; nothing where there are no images or Pillow is missing."""
    if not pixels or not prepare.has("images"):
        return {}
    try:
        import PIL.Image  # noqa: F401
    except ImportError:
        return {}

    def shrink(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            rows = [(item, thumbnail(source, pixels)) for item, source in zip(*(part.to_pylist() for part in batch.columns), strict=True)]
            kept = [(item, small) for item, small in rows if small is not None]
            yield pa.RecordBatch.from_arrays(
                [pa.array([item for item, _ in kept], pa.int64()), pa.array([small for _, small in kept], pa.binary())], [ITEM_IDX, "small"]
            )

    table = prepare.table("images").spark(spark)
    source = IMAGE if IMAGE in table.columns else IMAGE_URI
    made = _only(table, items).select(ITEM_IDX, source).mapInArrow(shrink, f"{ITEM_IDX} long, small binary").toArrow()
    rows = zip(made.column(0).to_pylist(), made.column(1).to_pylist(), strict=True)
    return {item: "data:image/jpeg;base64," + base64.b64encode(small).decode() for item, small in rows}


def thumbnail(source: bytes | str | None, pixels: int) -> bytes | None:
    """A small JPEG of an image given as bytes or URI; None where it cannot be read, since a page can do without."""
    import fsspec
    from PIL import Image

    if source is None:
        return None
    try:
        if isinstance(source, str):
            with fsspec.open(source, "rb") as stream:
                source = bytes(stream.read())
        image: Image.Image = Image.open(io.BytesIO(source))
        image.draft("RGB", (pixels * 2, pixels * 2))
        image = image.convert("RGB")
        image.thumbnail((pixels, pixels))
        small = io.BytesIO()
        image.save(small, "JPEG", quality=_JPEG_QUALITY)
    # Broken files raise whatever the decoder or the file system comes up with; the features stage is where they are counted.
    except Exception:
        return None
    return small.getvalue()
