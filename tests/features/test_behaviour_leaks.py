"""Behaviour sees the train split alone: whatever happens to later events, not a bit of the graph or of the vectors moves."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from esans.features.stage import Features
from tests.features.helpers import interactions, prepare, run_stage, shop

LIGHTGCN = {"batch_size": 128, "epochs": 2, "held_out_share": 0.1}
SECTION = {
    "text": {"encoder": "none"},
    "behaviour": {"encoder": "lightgcn", "dim": 8, "graph": {"weight": "swing", "neighbours": 4}, "lightgcn": LIGHTGCN},
}


def bits(folder, events):
    """Graph and vectors as bytes, in one order."""
    items, _ = shop(60, 40)
    bundle = run_stage(Features, folder, {"prepare": prepare(folder, items, events)}, **SECTION)
    graph = bundle.table("graph").arrow().sort_by([("item_idx", "ascending"), ("neighbour_idx", "ascending")])
    vectors = bundle.table("vectors").arrow().sort_by("item_idx").column("behaviour").to_pylist()
    return [graph.column(place).to_numpy().tobytes() for place in range(3)], [None if v is None else np.array(v).tobytes() for v in vectors]


@pytest.fixture(scope="module")
def parts():
    _, events = shop(60, 40)
    train = pa.compute.equal(events.column("split"), "train")
    return events.filter(train), events.filter(pa.compute.invert(train))


def test_no_bit_of_graph_or_vectors_depends_on_validation_or_test_and_every_event_of_train_may_matter(spark, tmp_path, parts):
    train, later = parts
    whole = bits(tmp_path, pa.concat_tables([train, later]))
    assert sum(vector is not None for vector in whole[1]) > 40
    random = np.random.default_rng(1)
    rows = [
        (user, int(random.integers(60)), int(random.integers(90)), split) for user in range(40) for split in ("validation", "test", "test")
    ]
    # Other items at other times, in no order, before and between the train events.
    other = interactions(rows).filter(pa.array(random.random(len(rows)) < 0.8))
    assert bits(tmp_path, pa.concat_tables([other, train])) == whole
    moved = train.set_column(1, "item_idx", pa.array(np.where(np.arange(len(train)) == 7, 59, train.column("item_idx").to_numpy())))
    graph, vectors = bits(tmp_path, pa.concat_tables([moved, later]))
    assert graph != whole[0]
    assert vectors != whole[1]
