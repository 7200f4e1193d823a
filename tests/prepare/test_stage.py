"""The whole stage on small tables: what its bundle holds, and that ids and results do not depend on how data is cut up."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from esans.prepare.ids import number

from .conftest import DAY, EVENTS, ITEMS, START, events_of, items_of, named_histories, rows, run_stage


def test_the_bundle_holds_what_the_later_stages_read(prepare):
    bundle = prepare(
        items_of(
            *"abcde",
            name=["A", "B", "C", "D", None],
            price=[1.0, 2.0, None, 4.0, 5.0],
            emb=[[1.0, 0.0]] * 4 + [None],
            on=[1, 1, 0, 1, None],
        ),
        events_of(
            *[(user, "abcde"[(user + step) % 5], step, "buy", 2.0) for user in (1, 2, 3) for step in range(4)],
            (1, "e", 9, "view", 1.0),
            (9, "e", 9, "view", 1.0),
            (2, "a", 9, "search", 1.0),
            names="user_id item_id timestamp kind strength",
        ),
        items={
            "columns": {"title": "name", "text": ["name", "price"], "text_vector": "emb", "available": "on"},
            "side": {"price": {"column": "price", "kind": "number"}, "label": {"column": "name", "kind": "category"}},
        },
        interactions={"columns": {"event": "kind", "weight": "strength"}},
        events={"positives": {"buy": 1.5}, "exposures": ["view"]},
    )
    items = bundle.table("items").arrow().sort_by("item_id").to_pydict()
    assert sorted(items["item_idx"]) == [0, 1, 2, 3, 4]
    assert items["available"] == [True, True, False, True, True]
    assert items["title"] == ["A", "B", "C", "D", None]
    assert items["text"] == ["A 1.0", "B 2.0", "C", "D 4.0", "5.0"]
    assert items["side_price"] == [1.0, 2.0, None, 4.0, 5.0]
    assert items["side_label"] == ["A", "B", "C", "D", None]
    assert items["text_vector"] == [[1.0, 0.0]] * 4 + [None]
    events = bundle.table("interactions").arrow()
    assert events.schema.field("position").type == pa.int32()
    assert events.schema.field("weight").type == pa.float32()
    assert set(events["weight"].to_pylist()) == {3.0}
    assert set(events["event"].to_pylist()) == {"buy"}
    assert "order_id" not in events.column_names
    assert bundle.table("exposures").rows == 1  # user 9 has no positive
    assert (bundle.figures["events.positive"], bundle.figures["events.exposure"], bundle.figures["events.ignored"]) == (12, 2, 1)
    wanted = {
        "num_items": 5,
        "num_users": 3,
        "num_train": 6,
        "num_validation": 3,
        "num_test": 3,
        "num_validation_users": 3,
        "num_test_users": 3,
        "side": {"price": "number", "label": "category"},
        "modalities_given": ["text"],
    }
    assert {name: bundle.facts[name] for name in wanted} == wanted
    assert named_histories(bundle)["1", "test"] == {"history": ["b", "c", "d"], "targets": ["e"], "seen": ["b", "c", "d"]}
    counts = dict(rows(bundle, "popularity", "item_idx", "count"))
    ids = dict(rows(bundle, "items", "item_id", "item_idx"))
    assert {name: counts[ids[name]] for name in "abcde"} == {"a": 0, "b": 1, "c": 2, "d": 2, "e": 1}


def test_rejected_rows_are_kept_with_their_reason_and_counted(prepare):
    events = {name: list(values) for name, values in EVENTS.items()}
    events["user_id"] += [1, 2]
    events["item_id"] += [77, 0]
    events["timestamp"] += [START, -1]
    bundle = prepare(ITEMS, events, max_rejected_share=0.2)
    assert rows(bundle, "rejected", "table", "reason", "column") == [
        ("interactions", "time_out_of_range", "timestamp"),
        ("interactions", "unknown_item", "item_id"),
    ]
    assert bundle.figures["interactions.rejected"] == 2
    assert bundle.figures["interactions.rejected_share"] == 2 / 14
    assert bundle.figures["interactions.unknown_item"] == 1


def test_ids_of_an_earlier_bundle_stay_and_new_ones_come_after_them(prepare):
    first = prepare()
    more = events_of(*[(user, (user + step) % 4 + 1, step) for user in (2, 3, 8) for step in range(4)])
    second = prepare(items_of(1, 2, 3, 4, 50), more, previous=first.uri)
    for table, name, index, new in (("items", "item_id", "item_idx", {"50"}), ("users", "user_id", "user_idx", {"8"})):
        old, now = dict(rows(first, table, name, index)), dict(rows(second, table, name, index))
        assert {key: now[key] for key in old} == old
        assert set(now) - set(old) == new
        assert sorted(now.values()) == list(range(len(now)))
    available = dict(rows(second, "items", "item_id", "available"))
    assert (available["0"], available["50"]) == (False, True)  # item 0 is gone: it keeps its index and is recommended no more
    assert second.facts["num_items"] == 6
    assert second.facts["id_maps"][0] == first.facts["id_maps"][0]
    assert [known["items"] for known in second.facts["id_maps"]] == [5, 6]
    assert second.table("popularity").rows == 6


def test_the_same_rows_in_other_files_and_partitions_give_the_same_bundle(raw, spark, tmp_path):
    config = raw(ITEMS, EVENTS)
    together = run_stage(config, str(tmp_path / "one"))
    folder = tmp_path / "parts"
    folder.mkdir()
    shuffled = pa.table(EVENTS).take([7, 3, 11, 0, 5, 9, 1, 10, 2, 8, 4, 6])
    for part in range(4):
        pq.write_table(shuffled.slice(part * 3, 3), folder / f"{part}.parquet")
    config.interactions.path = str(folder)
    spark.conf.set("spark.sql.shuffle.partitions", "5")
    try:
        apart = run_stage(config, str(tmp_path / "two"))
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", "2")
    for table in together.manifest["tables"]:
        assert rows(together, table) == rows(apart, table)


def test_numbering_is_dense_and_depends_on_the_set_of_ids_only(spark):
    ids = [f"id{n}" for n in range(500)]
    one, size = number(spark.createDataFrame([(i,) for i in ids], "id string").repartition(1), "id", "idx")
    two, _ = number(spark.createDataFrame([(i,) for i in reversed(ids)], "id string").repartition(7), "id", "idx")
    assert size == 500
    first = {row["id"]: row["idx"] for row in one.collect()}
    assert sorted(first.values()) == list(range(500))
    assert first == {row["id"]: row["idx"] for row in two.collect()}


def test_csv_files_with_text_everywhere_and_a_position_instead_of_times_give_the_same_split(prepare, raw, tmp_path):
    from_parquet = prepare()
    (tmp_path / "items.csv").write_text("item_id\n" + "\n".join(str(i) for i in range(5)))
    lines = [f"{u},{i},{(t - START) // DAY}" for u, i, t in zip(*EVENTS.values(), strict=True)]
    (tmp_path / "events.csv").write_text("user,item,place\n" + "\n".join(lines))
    config = raw(ITEMS, EVENTS)
    config.items.path, config.items.format = str(tmp_path / "items.csv"), "csv"
    config.interactions.path, config.interactions.format = str(tmp_path / "events.csv"), "csv"
    names = config.interactions.columns
    names.user_id, names.item_id, names.timestamp, names.position = "user", "item", None, "place"
    from_csv = run_stage(config, str(tmp_path / "csv"))
    assert named_histories(from_csv) == named_histories(from_parquet)


def test_minimum_events_count_distinct_pairs_and_settle_in_rounds(prepare):
    # Item 4 has one user. Without it user 3 has two items left, and is dropped under a minimum of three; items stay in the catalogue.
    events = events_of(*[(u, i, i) for u in (1, 2) for i in range(4)], (3, 0, 0), (3, 1, 1), (3, 4, 2), (3, 4, 3))
    bundle = prepare(ITEMS, events, filters={"min_user_items": 3, "min_item_users": 2})
    assert [name for (name,) in rows(bundle, "users", "user_id")] == ["1", "2"]
    assert bundle.facts["num_items"] == 5


def test_extra_tables_bring_columns_by_item_id(prepare, tmp_path):
    pq.write_table(pa.table({"sku": ["0", "1", "1", "99"], "emb": [[1.0, 0.0], None, [0.0, 1.0], [1.0, 1.0]]}), tmp_path / "emb.parquet")
    extra = {"vectors": {"path": str(tmp_path / "emb.parquet"), "item_id": "sku"}}
    bundle = prepare(ITEMS, EVENTS, items={"columns": {"image_vector": "vectors.emb"}, "extra": extra})
    found = dict(rows(bundle, "items", "item_id", "image_vector"))
    assert found == {"0": [1.0, 0.0], "1": [0.0, 1.0], "2": None, "3": None, "4": None}
    assert bundle.facts["modalities_given"] == ["image"]
