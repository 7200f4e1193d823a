"""Item and user tables spread over two processes by TorchRec: the same training, checkpoints and model as with replicated ones."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from esans.bundle import Bundle
from esans.config import build, to_dict
from esans.errors import ConfigError
from esans.model.config import need_torchrec
from esans.model.files import load
from esans.train.checkpoint import Checkpoints
from esans.train.config import TrainConfig

PYTHON = Path(".venv-sharded/bin/python")
KEYS: dict[str, Any] = {
    "batch_size": 32,
    # Only the last of two micro-batches goes through DistributedDataParallel.
    "accumulate": 2,
    "epochs": 4,
    "patience": 0,
    "log_every": 5,
    # A table for items, one for the histories' items, and one for users.
    "model": {"dim": 8, "hidden": 16, "user_id": True, "share_item_input": False},
    # Clipping is at work: its norm is that of all rows, wherever they lie.
    "optimizer": {"learning_rate": 0.01, "warmup_steps": 3, "clip_norm": 0.5},
    "checkpoint": {"every_steps": 10},
    "launch": {"processes": 2, "threads": 1},
}


@pytest.mark.integration
@pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-sharded: `make sharded` makes it")
def test_sharded_tables_train_as_replicated_ones_do(make_inputs: Callable[..., dict[str, Bundle]], tmp_path: Path) -> None:
    inputs = {name: bundle.uri for name, bundle in make_inputs().items()}
    (tmp_path / "spec.json").write_text(json.dumps({"inputs": inputs, "config": KEYS}))
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [PYTHON, "tests/train/sharded_ranks.py", tmp_path], env=environment, check=False, timeout=280, text=True, capture_output=True
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    told = {name: [json.loads((tmp_path / f"{name}-{rank}.json").read_text()) for rank in range(2)] for name in ("replicated", "sharded")}
    for one, other in zip(told["replicated"], told["sharded"], strict=True):
        assert len(one["losses"]) == 52, "more than 50 steps"
        assert torch.tensor(one["losses"]).allclose(torch.tensor(other["losses"]), rtol=0, atol=1e-5)
        metrics = [[value for name, value in record.items() if "@" in name] for record in (*one["records"], *other["records"])]
        assert metrics[: len(metrics) // 2] == metrics[len(metrics) // 2 :]
        # Half of the rows of 60 items, twice, and of 40 users; and half of their moments.
        assert list(other["own"].values()) == [30, 30, 20]
        assert one["optimizer"] - other["optimizer"] == 2 * 8 * (30 + 30 + 20)
    models = {name: load(tmp_path / f"model-{name}") for name in ("replicated", "sharded", "resumed")}
    states = {name: model.state_dict() for name, model in models.items()}
    assert {name: value.shape for name, value in states["sharded"].items()} == {n: v.shape for n, v in states["replicated"].items()}
    assert all(value.allclose(states["replicated"][name], rtol=0, atol=1e-5) for name, value in states["sharded"].items())
    # Killed before step 25, gone on from the checkpoint after step 20, each process with its own rows and their moments.
    resumed = [json.loads((tmp_path / f"resumed-{rank}.json").read_text())["losses"] for rank in range(2)]
    assert all(len(losses) == 32 for losses in resumed)
    assert torch.tensor(resumed).allclose(torch.tensor([rank["losses"][20:] for rank in told["sharded"]]), rtol=0, atol=1e-5)
    assert all(value.allclose(states["sharded"][name], rtol=0, atol=1e-5) for name, value in states["resumed"].items())
    assert [path.name for path in tmp_path.glob("model-*/model.json")] == ["model.json"] * 3
    assert len({path.read_text() for path in tmp_path.glob("model-*/model.json")}) == 1, "nothing says that tables were sharded"
    # A process of its own, without TorchRec, reads the whole of what two have written.
    config = build(TrainConfig, {**KEYS, "model": {**KEYS["model"], "tables": "sharded"}})
    config.resolve_groups()
    known = {key: value for key, value in to_dict(config, results_only=True).items() if key != "launch"}
    state: Any = Checkpoints(str(tmp_path / "sharded" / "checkpoints"), {"seed": 0, "train": known}).load()
    assert state["module"]["model.item_inputs.id_embedding.weight"].shape == (60, 8)
    assert all(torch.equal(value, states["sharded"][name]) for name, value in state["best_weights"].items())


def test_what_sharded_tables_cannot_do_is_refused() -> None:
    def config_of(**keys: Any) -> TrainConfig:
        return build(TrainConfig, {**KEYS, **keys})

    config_of(model={"tables": "sharded"})
    with pytest.raises(ConfigError, match=r"model\.tables = 'sharded' spreads tables over processes, but launch\.processes = 1"):
        config_of(model={"tables": "sharded"}, launch={"processes": 1})
    with pytest.raises(ConfigError, match=r"dim = 6 is not a multiple of 4, as tables = 'sharded' needs it"):
        config_of(model={"tables": "sharded", "dim": 6})
    with pytest.raises(ConfigError, match=r"optimizer\.tables = 'adagrad' needs sparse gradients, which sharded tables do not have"):
        config_of(model={"tables": "sharded"}, optimizer={"tables": "adagrad"})
    with pytest.raises(ConfigError, match=r"compile = true, but model\.tables = 'sharded' sends rows from inside the towers"):
        config_of(model={"tables": "sharded"}, compile=True)


def test_without_torchrec_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esans.model.config.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs TorchRec, which is not installed here: run `make sharded`"):
        need_torchrec()
