"""Every bad input that a user is likely to bring, with the words they get to read."""

from __future__ import annotations

import pyarrow as pa
import pytest

from esans.errors import ConfigError, DataError
from esans.prepare.fingerprint import outside_inputs
from esans.prepare.interactions import check_interactions
from esans.prepare.items import check_items
from esans.prepare.rejects import enforce_share
from esans.prepare.validate import check_columns, read_tables

from .conftest import DAY, EVENTS, ITEMS, START, events_of, items_of


def check(spark, config, now=START + 1000 * DAY):
    """Both tables, checked as the stage checks them."""
    raw = check_columns(read_tables(spark, config), config)
    items = check_items(raw.items, config.items)
    orders = config.split.method == "last_basket"
    events = check_interactions(raw.interactions, config.interactions, items.good.select("item_id"), orders=orders, now=now)
    return items, events


def reasons(checked):
    return {(one.reason, one.column): one.rows for one in checked.rejects}


def message(error):
    return str(error.value)


def test_a_missing_column_is_named_with_the_key_and_the_closest_column(spark, raw):
    config = raw(ITEMS, EVENTS, interactions={"columns": {"user_id": "userid"}})
    with pytest.raises(DataError) as error:
        check(spark, config)
    assert message(error) == (
        "interactions: column 'userid' (prepare.interactions.columns.user_id) is not there. Did you mean 'user_id'? "
        "The table has: user_id, item_id, timestamp."
    )


def test_missing_columns_of_both_tables_are_named_at_once_and_so_is_an_image_column_that_is_not_there(spark, raw):
    config = raw(ITEMS, EVENTS, items={"columns": {"image_vector": "image_emb"}}, interactions={"columns": {"event": "kind"}})
    with pytest.raises(DataError) as error:
        check(spark, config)
    assert message(error) == (
        "items: column 'image_emb' (prepare.items.columns.image_vector) is not there. The table has: item_id.\n"
        "interactions: column 'kind' (prepare.interactions.columns.event) is not there. The table has: user_id, item_id, timestamp."
    )


def test_a_bad_number_is_a_rejected_row_and_not_a_failed_job(spark, raw):
    items = items_of("a", "b", "c", price=["1.5", "cheap", None])
    config = raw(items, events_of((1, "a", 1)), items={"side": {"price": {"column": "price", "kind": "number"}}})
    checked, _ = check(spark, config)
    assert reasons(checked) == {("not_a_number", "price"): 1}
    assert checked.rejects[0].example == '{"item_id":"b","price":"cheap"}'
    assert sorted(tuple(row) for row in checked.good.select("item_id", "side_price").collect()) == [("a", 1.5), ("c", None)]


def test_a_bad_number_can_be_a_missing_value_instead(spark, raw):
    items = items_of("a", "b", price=["1.5", "cheap"])
    side = {"price": {"column": "price", "kind": "number"}}
    checked, _ = check(spark, raw(items, events_of((1, "a", 1)), items={"side": side, "on_bad_value": "missing"}))
    assert (checked.num_rejected, reasons(checked)) == (0, {("set_missing:not_a_number", "price"): 1})
    assert sorted(tuple(row) for row in checked.good.select("item_id", "side_price").collect()) == [("a", 1.5), ("b", None)]


def test_a_whole_column_of_words_where_a_number_belongs_is_a_wrong_column(spark, raw):
    config = raw(items_of(1, 2, price=["cheap", "dear"]), EVENTS, items={"side": {"price": {"column": "price", "kind": "number"}}})
    with pytest.raises(DataError) as error:
        check(spark, config)
    assert message(error) == (
        "items: column 'price' (prepare.items.side.price.column) is text and holds no number: all 2 values fail to convert "
        "(first: 'cheap'). Map another column, or set prepare.items.side.price.kind to category."
    )


def test_a_whole_column_of_words_where_times_belong_is_a_wrong_column(spark, raw):
    with pytest.raises(DataError) as error:
        check(spark, raw(ITEMS, events_of((1, 0, "monday"), (2, 1, "tuesday"))))
    assert message(error) == (
        "interactions: column 'timestamp' (prepare.interactions.columns.timestamp) is text and holds no time: all 2 values fail to convert "
        "(first: 'monday'). Map another column."
    )


def test_a_type_that_cannot_be_an_id_is_refused_before_any_row_is_read(spark, raw):
    with pytest.raises(DataError) as error:
        check(spark, raw(items_of([1], [2]), EVENTS))
    assert (
        message(error)
        == "items: column 'item_id' (prepare.items.columns.item_id) has type array<bigint>; an id is a string or a whole number."
    )


def test_rows_with_null_keys_unknown_items_and_impossible_times_are_rejected_each_with_its_reason(spark, raw):
    events = events_of(
        ("u", "a", 1), (None, "a", 1), (" ", "a", 1), ("u", None, 1), ("u", "nope", 1), ("u", "a", None), ("u", "a", -5), ("u", "a", 2000)
    )
    _, checked = check(spark, raw(items_of("a", "b"), events))
    assert reasons(checked) == {
        ("null_key", "user_id"): 2,
        ("null_key", "item_id"): 1,
        ("null_key", "timestamp"): 1,
        ("time_out_of_range", "timestamp"): 2,
        ("unknown_item", "item_id"): 1,
    }
    assert (checked.total, checked.num_rejected, checked.good.count(), checked.rejected.count()) == (8, 7, 1, 7)


def test_too_many_rejected_rows_stop_the_stage_with_counts_examples_and_the_cure(spark, raw):
    _, checked = check(spark, raw(items_of("a", "b"), events_of(("u", "a", 1), ("u", "b", 2), ("u", "a", -5))))
    with pytest.raises(DataError) as error:
        enforce_share(checked, 0.05)
    assert message(error) == (
        "interactions: 1 of 3 rows (33.3%) are rejected, more than prepare.max_rejected_share = 0.05 allows:\n"
        '  column \'timestamp\': 1 row time_out_of_range (first: {"user_id":"u","item_id":"a","timestamp":"-5"})\n'
        "  Times in milliseconds need prepare.interactions.timestamps.unit=ms; times to come, prepare.interactions.timestamps.max.\n"
        "  Fix the rows or the column mapping, or raise prepare.max_rejected_share. `esans validate` shows every reason."
    )
    enforce_share(checked, 0.34)


def test_of_a_duplicate_item_id_the_fullest_row_stays_whatever_the_order(spark, raw):
    items = items_of("a", "a", "a", "b", title=[None, "lamp", None, "chair"])
    for order in ([0, 1, 2, 3], [2, 3, 1, 0]):
        table = pa.table(items).take(order)
        checked, _ = check(spark, raw(table, events_of((1, "a", 1)), items={"columns": {"title": "title"}}))
        assert reasons(checked) == {("duplicate_item_id", "item_id"): 2}
        assert sorted(tuple(row) for row in checked.good.select("item_id", "title").collect()) == [("a", "lamp"), ("b", "chair")]


@pytest.mark.parametrize("table", ["items", "interactions"])
def test_an_empty_table_is_named_with_its_path(spark, raw, table, tmp_path):
    empty_items = pa.table({"item_id": pa.array([], pa.string())})
    empty_events = pa.table(
        {"user_id": pa.array([], pa.string()), "item_id": pa.array([], pa.string()), "timestamp": pa.array([], pa.int64())}
    )
    config = raw(empty_items, EVENTS) if table == "items" else raw(ITEMS, empty_events)
    with pytest.raises(DataError) as error:
        check(spark, config)
    path = tmp_path / f"{table}.parquet"
    assert message(error) == f"{table}: the table is empty (0 rows): {path}. Check prepare.{table}.path."


def test_a_corrupt_parquet_file_is_named(spark, raw, tmp_path):
    config = raw()
    (tmp_path / "interactions.parquet").write_bytes(b"this is no parquet")
    with pytest.raises(DataError) as error:
        check(spark, config)
    assert message(error) == (
        f"interactions: cannot read file:{tmp_path}/interactions.parquet: it is corrupt, cut short or not of the configured format. "
        "Replace the file, or take it out."
    )


def test_a_parquet_file_with_damage_in_its_middle_is_named_too(spark, raw, tmp_path):
    config = raw(ITEMS, events_of(*[(user, user % 5, 1) for user in range(5000)]))
    path = tmp_path / "interactions.parquet"
    content = bytearray(path.read_bytes())
    content[4:2000] = b"\xff" * 1996
    path.write_bytes(bytes(content))
    with pytest.raises(DataError) as error:
        check(spark, config)
    assert message(error).startswith(f"interactions: cannot read file://{tmp_path}/interactions.parquet: it is corrupt") or message(
        error
    ).startswith(f"interactions: cannot read file:{tmp_path}/interactions.parquet: it is corrupt")


def test_a_path_that_is_not_there_is_named_before_spark_starts(raw, tmp_path):
    config = raw()
    (tmp_path / "items.parquet").unlink()
    with pytest.raises(DataError) as error:
        outside_inputs(config)
    path = tmp_path / "items.parquet"
    assert message(error) == f"items: no file at {path} (prepare.items.path). Correct the path; relative ones start at the current folder."


def test_a_config_without_tables_says_which_key_is_missing():
    from esans.prepare.config import PrepareConfig

    with pytest.raises(ConfigError) as error:
        outside_inputs(PrepareConfig())
    assert message(error) == "prepare.items.path: required, and not set (or prepare.items.table for a catalogue table)."


@pytest.mark.parametrize(
    ("vectors", "words"),
    [
        ([[1.0, 2.0], [1.0], []], "2 rows whose length is not 2 (first: item_id '1', length 1)"),
        ([[1.0, 2.0], [float("nan"), 1.0], [3.0, 4.0]], "1 row with NaN, infinity or null inside (first: item_id '1', length 2)"),
        ([[1.0, 2.0], [1.0, float("-inf")], [3.0, None]], "2 rows with NaN, infinity or null inside (first: item_id '1', length 2)"),
        ([[1.0, 2.0], [0.0, 0.0], None], "1 row that are all zeros (first: item_id '1', length 2)"),
    ],
)
def test_bad_vectors_stop_the_stage_or_become_missing(spark, raw, vectors, words):
    items = items_of("0", "1", "2", emb=vectors)
    if vectors[2] == []:  # two of three would make 2 the unusual length
        items = items_of("0", "1", "2", "3", "4", emb=[*vectors, [1.0, 1.0], [2.0, 2.0]])
    columns = {"image_vector": "emb"}
    with pytest.raises(DataError) as error:
        check(spark, raw(items, events_of((1, "0", 1)), items={"columns": columns}))
    assert message(error) == (
        f"items: column 'emb' has {words}.\n"
        "Fix the rows, or set prepare.items.on_bad_vector=missing to treat them as items without an image vector."
    )
    checked, _ = check(spark, raw(items, events_of((1, "0", 1)), items={"columns": columns, "on_bad_vector": "missing"}))
    assert checked.num_rejected == 0
    kept = {row["item_id"]: row["image_vector"] for row in checked.good.collect()}
    assert kept["0"] == [1.0, 2.0]
    assert kept["1"] is None


def test_a_vector_column_of_text_is_refused(spark, raw):
    with pytest.raises(DataError) as error:
        check(spark, raw(items_of(1, 2, emb=["[1]", "[2]"]), EVENTS, items={"columns": {"text_vector": "emb"}}))
    assert message(error) == "items: column 'emb' (prepare.items.columns.text_vector) has type string; an array of numbers belongs there."


def test_one_item_only_is_too_few(prepare):
    with pytest.raises(DataError) as error:
        prepare(items_of(0), events_of((1, 0, 1), (2, 0, 1)))
    assert message(error) == (
        "items: 1 item is left after the checks, and retrieval needs at least 2. Check prepare.items.path and the rejected rows."
    )


def test_one_user_only_is_too_few(prepare):
    with pytest.raises(DataError) as error:
        prepare(ITEMS, events_of(*[(1, item, item) for item in range(5)]))
    assert message(error) == (
        "interactions: 1 user has positives after the checks and filters, and training needs at least 2 users. "
        "Check prepare.events, prepare.filters and the rejected rows."
    )


def test_a_split_without_anything_to_test_says_its_rule_and_what_to_change(prepare):
    with pytest.raises(DataError) as error:
        prepare(ITEMS, events_of((1, 0, 1), (1, 1, 2), (2, 0, 1)))
    assert message(error) == (
        "interactions: the split leaves no validation users and no test users (prepare.split.method = 'last_out'; 3 train, 0 validation, "
        "0 test rows).\n"
        "The rule: A user with at least 3 distinct items is tested: the last new item in time order is the test target, the one before it "
        "the validation target, everything earlier trains. Other users only train. Rows of one user at one time are ordered by a seeded "
        "hash, never by item id. Of a user's events with one item the first event counts.\n"
        "Lower prepare.split.min_items or prepare.split.min_baskets, move the cuts, or take another method."
    )


def test_an_availability_condition_that_spark_cannot_read_is_a_config_error(spark, raw):
    with pytest.raises(ConfigError) as error:
        check(spark, raw(ITEMS, EVENTS, items={"available_where": "stock > 0"}))
    assert message(error).startswith(
        "prepare.items.available_where = 'stock > 0': A column, variable, or function parameter with name `stock`"
    )
