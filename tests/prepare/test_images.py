"""Pictures of items: bytes or URIs, in the items table or an extra one; their bytes end up in one place only."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from esans.bundle import BundleWriter
from esans.errors import DataError
from esans.prepare.images import of_items
from esans.prepare.items import check_items
from esans.prepare.tables import write_images, write_items
from esans.prepare.validate import check_columns, read_tables, roles

from .conftest import EVENTS, ITEMS, items_of, rows


def catalogue(spark, config, folder):
    """Items and images as the stage writes them, and the checked rows."""
    tables = read_tables(spark, config)
    raw, out = check_columns(tables, config), BundleWriter(f"file://{folder}/bundle", "prepare", "0")
    items = check_items(raw.items, config.items)
    written = write_items(out, items.good, None, spark)
    count = write_images(out, raw.images, items.good, written, config.items.columns.image)
    out.report({"num_images": count})
    return out.finish(code_version=1, config={}, inputs={}), items


def test_bytes_of_an_extra_table_reach_the_images_table_and_neither_the_items_nor_the_rejected_rows(spark, raw, tmp_path):
    secret = b"\x00\xffthe bytes of a picture"
    pictures = {"sku": [0, 0, 1, 2, 3, 77], "photo": [b"first", None, secret, b"", None, b"of no item"]}
    pq.write_table(pa.table(pictures), tmp_path / "photos.parquet")
    items = items_of(0, 1, 2, 3, 4, 1, None, name=["a", "b", "c", "d", "e", None, "no id"])
    extra = {"photos": {"path": str(tmp_path / "photos.parquet"), "item_id": "sku"}}
    config = raw(items, EVENTS, items={"columns": {"title": "name", "image": "photo"}, "extra": extra})
    bundle, checked = catalogue(spark, config, tmp_path)
    ids = dict(rows(bundle, "items", "item_idx", "item_id"))
    found = bundle.table("images").arrow().to_pydict()
    assert {ids[item]: image for item, image in zip(*found.values(), strict=True)} == {"0": b"first", "1": secret, "2": b""}
    assert bundle.figures["num_images"] == 3
    assert bundle.table("items").arrow().column_names == ["item_idx", "item_id", "available", "title"]
    assert sorted(row["row"] for row in checked.rejected.collect()) == [
        '{"item_id":"1","photo":"24 bytes","name":null}',
        '{"item_id":null,"photo":null,"name":"no id"}',
    ]


def test_a_uri_is_kept_as_it_is_and_of_two_rows_of_an_item_the_picture_of_the_one_that_stays_counts(spark, raw):
    places = ["file:///a.jpg", " s3://shop/b.png ", "", None, "file:///other.jpg"]
    items = items_of("a", "b", "c", "d", "a", name=["A", "B", "C", "D", None], place=places)
    config = raw(items, EVENTS, items={"columns": {"title": "name", "image": "place"}})
    tables = read_tables(spark, config)
    checked = check_columns(tables, config)
    good = check_items(checked.items, config.items).good
    numbered = spark.createDataFrame([(name, place) for place, name in enumerate("abcd")], "item_id string, item_idx long")
    found = of_items(checked.images, good, numbered)
    assert found.columns == ["item_idx", "image_uri"]
    assert sorted(tuple(row) for row in found.collect()) == [(0, "file:///a.jpg"), (1, "s3://shop/b.png")]
    assert roles(config, "items")["place"] == "image"


def test_a_column_that_is_no_picture_is_named_with_its_key_and_type(spark, raw):
    config = raw(items_of(0, 1, photo=[1.5, 2.5]), EVENTS, items={"columns": {"image": "photo"}})
    with pytest.raises(DataError) as error:
        check_columns(read_tables(spark, config), config)
    assert str(error.value) == (
        "items: column 'photo' (prepare.items.columns.image) has type double; image bytes (binary) or a URI (string) belong there."
    )
    config = raw(ITEMS, EVENTS, items={"columns": {"image": "foto"}})
    with pytest.raises(DataError) as error:
        check_columns(read_tables(spark, config), config)
    assert str(error.value) == "items: column 'foto' (prepare.items.columns.image) is not there. The table has: item_id."


def test_a_column_without_any_picture_is_an_error(spark, raw, tmp_path):
    items = items_of(0, 1, 2, 3, 4, photo=pa.array([None] * 5, pa.binary()))
    with pytest.raises(DataError) as error:
        catalogue(spark, raw(items, EVENTS, items={"columns": {"image": "photo"}}), tmp_path)
    assert str(error.value) == "items: column 'photo' (prepare.items.columns.image) has no value at all. Map another column, or none."
