"""One, two and three processes count the same, bit for bit."""

from __future__ import annotations

import pyarrow.parquet as pq
import torch

from esans.config import build
from esans.evaluate import evaluate_model
from esans.evaluate.config import EvaluateConfig
from tests.evaluate.models import train_bundle
from tests.retrieval.small import random_users, write_prepare

SPLITS = ("validation", "test")


def evaluated(tmp_path, world_size, model, prepare, **keys):
    config = build(EvaluateConfig, {"user_batch": 5, "launch": {"processes": world_size}, **keys})
    folder = tmp_path / f"per_user-{world_size}"
    return evaluate_model(model, prepare, config, splits=SPLITS, per_user_uri=str(folder)), folder


def test_one_two_and_three_processes_give_the_same_integers_metrics_and_rows(tmp_path):
    prepare, model = write_prepare(tmp_path, random_users(7, 43, 64), 64, unavailable=(3, 9)), train_bundle(tmp_path, 64)
    alone, folder = evaluated(tmp_path, 1, model, prepare)
    users = pq.read_table(folder).to_pandas().sort_values(["split", "user_idx"], ignore_index=True)
    assert len(users) == 2 * 43
    for world_size in (2, 3):
        shared, folder = evaluated(tmp_path, world_size, model, prepare)
        for split in SPLITS:
            one, many = alone[split].evaluation, shared[split].evaluation
            assert one.overall.users == 43
            for name, counted in one.state().items():
                assert torch.equal(counted, many.state()[name]), name
            assert repr(many.rows("m", split)) == repr(one.rows("m", split))
            assert many.headline() == one.headline()
        files = sorted(path.name for path in folder.iterdir())
        assert files == [f"part-{rank:05d}.parquet" for rank in range(world_size)]
        assert all(pq.read_metadata(folder / name).num_rows for name in files)
        table = pq.read_table(folder).to_pandas().sort_values(["split", "user_idx"], ignore_index=True)
        assert table.equals(users)
