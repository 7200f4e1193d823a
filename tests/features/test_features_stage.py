from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from esans.config import build
from esans.errors import ConfigError, DataError
from esans.features.stage import Features
from esans.settings import Settings
from tests.features.helpers import interactions, prepare, run_stage, shop

SMALL = {"text": {"dim": 8}, "behaviour": {"encoder": "landmarks", "dim": 8, "graph": {"neighbours": 4}}}
ORDER = [("item_idx", "ascending"), ("neighbour_idx", "ascending")]


@pytest.fixture(scope="module")
def built(spark, tmp_path_factory):
    """One run that several tests look at."""
    folder = tmp_path_factory.mktemp("built")
    items, events = shop(60, 40)
    return run_stage(Features, folder, {"prepare": prepare(folder, items, events, {"kind": "category"})}, **SMALL)


def rows(bundle, table, key="item_idx"):
    return bundle.table(table).arrow().sort_by(key)


def test_every_item_has_a_row_of_unit_vectors_and_the_facts_name_what_there_is(built):
    vectors = rows(built, "vectors")
    assert vectors.column("item_idx").to_pylist() == list(range(60))
    wanted = {"num_items": 60, "modalities": {"text": 8, "behaviour": 8}, "side": {"kind": 6}}
    assert {name: built.facts[name] for name in wanted} == wanted
    assert set(built.facts["spaces"]) == {"text", "behaviour", "side"}
    for name in ("text", "behaviour"):
        norms = [math.dist(vector, [0] * 8) for vector in vectors.column(name).to_pylist() if vector is not None]
        np.testing.assert_allclose(norms, 1, rtol=1e-5)
    assert rows(built, "side").column_names == ["item_idx", "side_kind"]


def test_the_graph_links_items_of_one_group_and_no_item_to_itself(built):
    graph = rows(built, "graph")
    item, neighbour = graph.column("item_idx").to_numpy(), graph.column("neighbour_idx").to_numpy()
    assert (item % 5 == neighbour % 5).all()
    assert (item != neighbour).all()
    assert np.bincount(item).max() == 4


def test_no_validation_or_test_event_reaches_the_graph_or_a_vector_and_the_same_seed_gives_the_same_tables(spark, tmp_path, built):
    items, events = shop(60, 40)
    train = events.filter(pa.compute.equal(events.column("split"), "train"))
    later = interactions(
        [(user, (7 * user + step) % 60, 50 + step, split) for user in range(40) for step, split in enumerate(["validation", "test"])]
    )
    later = later.set_column(4, "position", pa.array([99] * len(later), pa.int32()))
    source = prepare(tmp_path, items, pa.concat_tables([later, train]), {"kind": "category"})
    other = run_stage(Features, tmp_path, {"prepare": source}, **SMALL)
    for name in ("vectors", "side"):
        assert rows(built, name).equals(rows(other, name))
    assert built.table("graph").arrow().sort_by(ORDER).equals(other.table("graph").arrow().sort_by(ORDER))


def test_bad_ready_vectors_are_counted_and_count_as_missing(spark, tmp_path):
    items, events = shop(12, 12)
    image = [[1.0, 2.0]] * 8 + [[1.0], [0.0, 0.0], [math.nan, 1.0], None]
    items = items.append_column("image_vector", pa.array(image, pa.list_(pa.float32())))
    bundle = run_stage(Features, tmp_path, {"prepare": prepare(tmp_path, items, events)}, **SMALL)
    assert [vector is None for vector in rows(bundle, "vectors").column("image").to_pylist()] == [False] * 8 + [True] * 4
    counted = {name: bundle.figures[f"image.{name}"] for name in ("bad_length", "zero", "not_finite")}
    assert counted == {"bad_length": 1, "zero": 1, "not_finite": 1}


def test_a_vector_of_another_length_is_an_error_on_request(spark, tmp_path):
    items, events = shop(12, 12)
    items = items.append_column("image_vector", pa.array([[1.0, 2.0]] * 10 + [[1.0], []], pa.list_(pa.float32())))
    with pytest.raises(DataError) as error:
        run_stage(Features, tmp_path, {"prepare": prepare(tmp_path, items, events)}, image={"on_bad_length": "error"})
    assert str(error.value) == (
        "items: column 'image_vector' has 2 rows whose length is not 2 (first: item_id 'i10', length 1).\n"
        "Fix the rows, or set features.image.on_bad_length=missing to treat them as items without an image."
    )


def test_an_encoder_without_its_column_says_what_to_map(spark, tmp_path):
    items, events = shop(12, 12)
    with pytest.raises(DataError) as error:
        run_stage(Features, tmp_path, {"prepare": prepare(tmp_path, items, events)}, image={"encoder": "columns"})
    assert str(error.value) == (
        "items: there is no column 'image_vector'. Map it in the prepare section, or set features.image.encoder to auto or none."
    )


def test_items_that_nothing_is_known_about_are_an_error(spark, tmp_path):
    items, _ = shop(1, 1)
    bundle = prepare(tmp_path, items.drop(["title"]), interactions([(0, 0, 0, "train")]))
    with pytest.raises(DataError) as error:
        run_stage(Features, tmp_path, {"prepare": bundle})
    assert str(error.value) == (
        "items: none of 1 items has a text, image or behaviour vector.\n"
        "Map a title, text, text_vector or image_vector column in the prepare section, or bring items that share users."
    )


def test_a_single_item_has_its_text_and_no_neighbours(spark, tmp_path):
    items, _ = shop(1, 1)
    bundle = run_stage(
        Features,
        tmp_path,
        {"prepare": prepare(tmp_path, items, interactions([(0, 0, 0, "train")]))},
        text={"dim": 4, "tfidf": {"min_items": 1}},
    )
    assert bundle.facts["modalities"] == {"text": 4}
    assert bundle.table("graph").rows == 0


def test_beyond_the_landmarks_items_take_the_vectors_of_their_neighbours(spark, tmp_path):
    items, events = shop(60, 40)
    few = {
        "text": {"encoder": "none"},
        "behaviour": {"encoder": "landmarks", "dim": 8, "graph": {"neighbours": 3}, "landmarks": {"landmarks": 5}},
    }
    bundle = run_stage(Features, tmp_path, {"prepare": prepare(tmp_path, items, events)}, **few)
    assert bundle.figures["behaviour.landmarks"] == 5
    assert bundle.figures["behaviour.coverage"] > 0.5
    kept = rows(bundle, "vectors").column("behaviour").to_pylist()
    known = [item for item, vector in enumerate(kept) if vector is not None]
    vectors, group = np.array([kept[item] for item in known]), np.array(known) % 5
    cosine, same = vectors @ vectors.T, group[:, None] == group
    assert cosine[same].mean() > cosine[~same].mean() + 0.5


def test_an_unknown_encoder_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError) as error:
        build(Settings, {"features": {"text": {"encoder": "bert"}}})
    assert (
        str(error.value)
        == "features.text: text.encoder = 'bert': must be one of auto, tfidf, columns, sentence_transformers, module, none."
    )
