"""Slices by popularity, history length, cold items and columns of the items."""

from __future__ import annotations

import pyarrow as pa
import pytest
import torch

from esans.bundle import Bundle, BundleWriter
from esans.config import build
from esans.errors import ConfigError
from esans.evaluate.stage import Evaluate
from esans.retrieval.config import MetricsConfig
from esans.retrieval.item_columns import MISSING, OTHER, read_cuts
from esans.retrieval.ragged import Ragged
from esans.retrieval.slices import COLD, HISTORY_LENGTH, POPULARITY, Slices, cold_cut, popularity_cut
from esans.settings import Settings


def test_popularity_buckets_hold_equal_counts_together_and_keep_cold_items_apart():
    counts = torch.tensor([0, 1, 1, 1, 1, 1, 2, 3, 9, 0])
    cut = popularity_cut(counts, 4)
    assert cut.labels[0] == "cold"
    for bucket, label in enumerate(cut.labels):
        inside = counts[cut.place_N == bucket]
        low, _, high = label.partition("-")
        if bucket:
            assert (inside >= int(low)).all()
            assert (inside <= int(high or low)).all()
            assert len(inside)
        else:
            assert (inside == 0).all()
    assert sum(len(counts[cut.place_N == b]) for b in range(len(cut.labels))) == len(counts)


def test_deciles_hold_a_tenth_of_the_items_each_where_counts_differ():
    cut = popularity_cut(torch.randperm(200) + 1, 10)
    assert torch.bincount(cut.place_N.long()).tolist() == [0] + [20] * 10


def test_a_catalogue_without_train_positives_is_all_cold():
    cut = popularity_cut(torch.zeros(4, dtype=torch.int64), 10)
    assert cut.labels[0] == "cold"
    assert cut.place_N.tolist() == [0] * 4


def test_cold_items_are_those_below_the_bound():
    cut = cold_cut(torch.tensor([0, 4, 5, 6]), 5)
    assert cut.labels == ("cold: below 5", "5 or more")
    assert cut.place_N.tolist() == [0, 0, 1, 1]


def test_slices_part_the_targets_and_the_users():
    slices = Slices.build(torch.tensor([0, 5, 9]), MetricsConfig(popularity_buckets=2, history_edges=[2, 4], cold_below=6))
    targets = Ragged.from_lists([[0, 1], [2], [1]])
    everybody, history, popularity, cold = slices.places(targets.rows, targets.values, torch.tensor([1, 2, 9]))
    keys = slices.keys
    assert everybody.tolist() == [0] * 4
    assert [keys[p].label for p in history] == ["0-1", "0-1", "2-3", "4+"]
    assert [keys[p].label for p in popularity] == ["cold", "1-8", "9", "1-8"]
    assert [keys[p].label for p in cold] == ["cold: below 6", "cold: below 6", "6 or more", "cold: below 6"]
    assert [{keys[p].slice for p in places} for places in (history, popularity, cold)] == [{HISTORY_LENGTH}, {POPULARITY}, {COLD}]


def items(tmp_path, **columns) -> Bundle:
    size = len(next(iter(columns.values())))
    order = torch.randperm(size, generator=torch.Generator().manual_seed(0)).tolist()
    whole = {"item_idx": list(range(size)), "item_id": [f"i{i}" for i in range(size)], "available": [True] * size, **columns}
    out = BundleWriter(str(tmp_path / "prepare" / "x"), "prepare", "x")
    out.write_arrow("items", pa.table(whole).take(pa.array(order)))
    out.state({"num_items": size})
    return out.finish(code_version=1, config={}, inputs={})


def test_a_category_is_cut_by_its_largest_values_and_the_rest(tmp_path):
    genre = ["drama"] * 4 + ["comedy"] * 3 + ["war", "noir", None] + ["short"] * 3
    (cut,) = read_cuts(items(tmp_path, side_genre=genre), ["genre"], 2)
    assert cut.labels == ("drama", "comedy", OTHER, MISSING)
    assert [cut.labels[place] for place in cut.place_N] == ["drama"] * 4 + ["comedy"] * 3 + [OTHER] * 2 + [MISSING] + [OTHER] * 3


def test_a_number_is_cut_at_quantiles_and_equal_numbers_stay_together(tmp_path):
    year = [1990.0, 1990.0, 1990.0, 1990.0, 1990.0, 2001.0, 2002.0, 2003.5, None, float("nan")]
    (cut,) = read_cuts(items(tmp_path, side_year=year), ["year"], 8)
    assert cut.labels == ("1990", "2002 to 2003.5", MISSING) or cut.labels[-1] == MISSING
    for place, label in enumerate(cut.labels[:-1]):
        low, _, high = label.partition(" to ")
        inside = [year[item] for item in range(10) if cut.place_N[item] == place]
        assert inside
        assert float(low) == min(inside)
        assert float(high or low) == max(inside)
    assert cut.place_N[8:].tolist() == [len(cut.labels) - 1] * 2
    assert len(set(cut.place_N[:5].tolist())) == 1


def test_a_column_without_any_value_is_all_missing(tmp_path):
    (cut,) = read_cuts(items(tmp_path, side_year=pa.array([None, None], pa.float64())), ["year"], 8)
    assert cut.labels == (MISSING,)


def test_a_column_that_the_bundle_lacks_or_that_holds_lists_is_named_with_what_there_is(tmp_path):
    bundle = items(tmp_path, side_genre=["a", "b"], text_vector=[[1.0], [2.0]], title=["x", "y"])
    for name in ("colour", "text_vector"):
        with pytest.raises(ConfigError) as error:
            read_cuts(bundle, [name], 8)
        assert str(error.value) == (
            f"evaluate.slices names {name!r}, and the items have no such column to slice by. There are: available, genre, title.\n"
            "Map the column under prepare.items.side, as a category or a number."
        )


def test_wrong_columns_are_refused_before_anything_runs():
    def settings(*slices):
        side = {"genre": {"column": "g", "kind": "category"}}
        return build(Settings, {"prepare": {"items": {"side": side}}, "evaluate": {"slices": list(slices)}})

    Evaluate.check(settings("genre", "available"))
    for slices, message in (
        (
            ["genre", "brand"],
            "evaluate.slices names 'brand', and the items have no such column to slice by. There are: available, genre.\n"
            "Map the column under prepare.items.side, as a category or a number.",
        ),
        (["genre", "genre"], "evaluate.slices names 'genre' twice."),
        (["cold"], "evaluate.slices names 'cold', which every evaluation has already. Leave it out."),
    ):
        with pytest.raises(ConfigError) as error:
            Evaluate.check(settings(*slices))
        assert str(error.value) == message
