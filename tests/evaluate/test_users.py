"""Evaluation of a model: the same from one process and from two, and the same as the definitions say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from esans.retrieval.config import MetricsConfig
from esans.retrieval.encode import encode_catalogue, encode_users
from esans.retrieval.evaluation import Catalogue
from esans.retrieval.metrics import ranking_metrics
from esans.retrieval.topk import rank_targets
from esans.retrieval.users import user_batches
from tests.retrieval.small import Stub, random_users, write_prepare

WORKER = """
import json, sys
import torch, torch.distributed as dist
from esans.bundle import Bundle
from esans.evaluate.users import evaluate_users
from esans.retrieval.config import MetricsConfig
from esans.retrieval.encode import encode_catalogue
from esans.retrieval.evaluation import Catalogue
from tests.retrieval.small import Stub

uri, rank, world, store, target = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
if world > 1:
    dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=world)
prepare = Bundle.open(uri)
model, catalogue = Stub(64), Catalogue.read(prepare)
done = evaluate_users(model, encode_catalogue(model), prepare.table("histories"), "test", catalogue, MetricsConfig(),
                      rank=rank, world_size=world, user_batch=5)
packed = {f"{key.slice}/{key.label}": sums.pack().tolist() for key, sums in done.sums.items()}
json.dump({"sums": packed, "covered": done.covered.tolist()}, open(f"{target}-{rank}.json", "w"))
if world > 1:
    dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def prepare(tmp_path_factory):
    return write_prepare(tmp_path_factory.mktemp("evaluate"), random_users(7, 43, 64), 64, unavailable=(3, 9))


def processes(prepare, tmp_path: Path, world: int) -> list[dict]:
    root = Path(__file__).resolve().parents[2]
    started = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                WORKER,
                prepare.uri,
                str(rank),
                str(world),
                str(tmp_path / f"store-{world}"),
                str(tmp_path / f"out-{world}"),
            ],
            cwd=root,
        )
        for rank in range(world)
    ]
    assert [process.wait(timeout=120) for process in started] == [0] * world
    return [json.loads((tmp_path / f"out-{world}-{rank}.json").read_text()) for rank in range(world)]


def test_two_processes_give_the_integer_rank_histograms_of_one(prepare, tmp_path):
    (alone,) = processes(prepare, tmp_path, 1)
    first, second = processes(prepare, tmp_path, 2)
    assert first == alone
    assert second == alone
    assert alone["sums"]["all/all"][0] == 43


def test_streaming_gives_the_metrics_of_all_users_at_once(prepare):
    from esans.evaluate.users import evaluate_users

    model, catalogue, config = Stub(64), Catalogue.read(prepare), MetricsConfig()
    items = encode_catalogue(model, chunk=10)
    (everyone,) = user_batches(prepare.table("histories"), "test", 1000)
    ranks = rank_targets(encode_users(model, everyone), items, everyone.targets, everyone.seen, catalogue.available)
    streamed = evaluate_users(model, items, prepare.table("histories"), "test", catalogue, config, user_batch=7, item_chunk=9)
    assert torch.equal(streamed.overall.histogram, ranking_metrics(ranks).histogram)
    assert streamed.overall.means() == ranking_metrics(ranks).means()


def test_histories_reach_the_model_padded_at_the_left_with_the_newest_last(prepare):
    seen: list[torch.Tensor] = []

    class Spy(Stub):
        def encode_users(self, history, user_idx=None):
            seen.append(history)
            return super().encode_users(history, user_idx)

    batch = next(iter(user_batches(prepare.table("histories"), "test", 4)))
    encode_users(Spy(64, history_length=30), batch)
    for row in range(len(batch)):
        history = batch.history.slice(row, row + 1).values.tolist()
        assert seen[0][row].tolist() == [-1] * (30 - len(history)) + history
