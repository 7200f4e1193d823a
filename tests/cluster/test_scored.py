from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from esans.bundle import BundleWriter
from esans.cluster.hardness import Held
from esans.cluster.scored import model_judge, open_model
from esans.config import build
from esans.errors import ConfigError
from esans.model.config import ModelConfig
from esans.model.files import save
from esans.model.towers import TwoTower
from tests.features.helpers import write_bundle

KNOWN, ITEMS = 12, 15


def train_bundle(folder):
    torch.manual_seed(0)
    model = TwoTower(build(ModelConfig, {"dim": 8, "user_id": True}), KNOWN, 3, 4, 0, []).eval()
    out = BundleWriter(f"file://{folder}/train", "train", "test")
    with out.local("model") as path:
        save(model, path)
    return model, out.finish(code_version=1, config={}, inputs={})


def test_scores_are_those_of_the_towers_and_what_the_model_does_not_know_has_none(spark, tmp_path):
    model, bundle = train_bundle(tmp_path)
    rows = [
        {"user_idx": 0, "split": "validation", "history": [1, 2, 14, 3, 4, 5], "targets": [6, 7]},
        {"user_idx": 5, "split": "validation", "history": [8], "targets": [9]},
        {"user_idx": 1, "split": "validation", "history": [8], "targets": [13]},
        {"user_idx": 2, "split": "test", "history": [8], "targets": [3]},
    ]
    prepare = write_bundle(tmp_path, "prepare", {"histories": pa.Table.from_pylist(rows)}, {})
    c1, c2 = np.arange(ITEMS) % 3, np.arange(ITEMS) % 2
    codes = pa.table({"item_idx": np.arange(ITEMS), "c1": c1.astype(np.int32), "c2": c2.astype(np.int32)})
    held = Held(np.arange(ITEMS), c1, c2, np.zeros((ITEMS, 2), np.float32), 3, 2)
    judge = model_judge(open_model(bundle.uri), prepare, spark.createDataFrame(codes), held, 100, 0)
    assert judge is not None
    assert judge.c1.tolist() == [0, 0]
    assert judge.c2.tolist() == [0, 1]
    with torch.inference_mode():
        users = model.encode_users(torch.tensor([[2, 3, 4, 5], [-1, -1, -1, 8]]), torch.tensor([0, -1]))
        items = model.encode_items(torch.arange(KNOWN))
    wanted = (users @ items.T).numpy()
    found = judge.scores(np.array([[0, 3, 14], [11, -1, 2]]))
    np.testing.assert_allclose(found[[0, 0, 1, 1], [0, 1, 0, 2]], wanted[[0, 0, 1, 1], [0, 3, 11, 2]], rtol=1e-5)
    assert np.isnan(found[[0, 1], [2, 1]]).all()
    np.testing.assert_allclose(judge.positive, wanted[[0, 1], [6, 9]], rtol=1e-5)


def test_a_key_that_names_no_train_bundle_is_refused_by_name(tmp_path):
    prepare = write_bundle(tmp_path, "prepare", {}, {})
    for uri, what in (
        (f"file://{tmp_path}/nothing", "there is no finished bundle"),
        (prepare.uri, "this is a bundle of the prepare stage"),
    ):
        with pytest.raises(ConfigError) as error:
            open_model(uri)
        assert str(error.value) == (
            f"cluster.quality.model = {uri!r}: {what}. Give the URI of a train bundle, or null for the cosine of vectors."
        )
