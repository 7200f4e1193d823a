"""How training processes start: here, by torchrun on this host, by Spark's TorchDistributor, or inside a torchrun from outside."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from esans.errors import EsansError
from esans.train.config import LaunchConfig, TrainConfig
from esans.uri import join, write_text

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_told = False


class TrainingFailed(EsansError):
    """A training process ended with an error; its own message stands above."""


def inside_torchrun() -> bool:
    """Whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def launch(spec_json: str, config: LaunchConfig, scratch_uri: str, spark: SparkSession | None) -> None:
    """Run the workers to their end. Raises TrainingFailed when one of them fails."""
    if inside_torchrun():
        _tell_followers(spec_json)
        _work(spec_json)
    elif config.mode == "spark":
        assert spark is not None
        _by_spark(spec_json, config, spark)
    elif config.processes > 1 or config.mode == "torchrun":
        _by_torchrun(spec_json, config, scratch_uri)
    else:
        _work(spec_json)


def follow_if_not_leader(config: TrainConfig) -> bool:
    """On ranks other than 0 of an outer torchrun: wait for the leader's spec, work, and return True. Elsewhere False."""
    if not inside_torchrun() or os.environ["RANK"] == "0":
        return False
    spec_json = _broadcast(None, config)
    if spec_json is not None:
        _work(spec_json)
    _leave()
    return True


def release_followers(config: TrainConfig) -> None:
    """On rank 0 of an outer torchrun: send the others home when there was nothing to train."""
    if inside_torchrun() and os.environ["RANK"] == "0":
        if not _told:
            _broadcast(None, config)
        _leave()


def _tell_followers(spec_json: str) -> None:
    import json

    from esans.config import build

    global _told  # noqa: PLW0603
    _told = True
    _broadcast(spec_json, build(TrainConfig, json.loads(spec_json)["config"]))


def _broadcast(spec_json: str | None, config: TrainConfig) -> str | None:
    import torch.distributed as dist

    from esans.train.worker import pick_device

    if not dist.is_initialized():
        dist.init_process_group("nccl" if pick_device(config).type == "cuda" else "gloo")
    box = [spec_json]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def _work(spec_json: str) -> None:
    from esans.train.worker import run_worker

    run_worker(spec_json)


def _by_torchrun(spec_json: str, config: LaunchConfig, scratch_uri: str) -> None:
    spec_uri = join(scratch_uri, "spec.json")
    write_text(spec_uri, spec_json)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={config.processes}"]
    # One rank's threads are set by the worker; torchrun would otherwise warn and set one.
    environment = {**os.environ, "OMP_NUM_THREADS": str(config.threads or max(1, (os.cpu_count() or 1) // config.processes))}
    done = subprocess.run([*command, "-m", "esans.train.worker", spec_uri], env=environment, check=False)
    if done.returncode:
        raise TrainingFailed(f"training ended with exit code {done.returncode}; the first error of a rank stands above.")


def _by_spark(spec_json: str, config: LaunchConfig, spark: SparkSession) -> None:
    from pyspark.ml.torch.distributor import TorchDistributor

    from esans.train.worker import run_worker

    local = spark.sparkContext.master.startswith("local")
    distributor = TorchDistributor(num_processes=config.processes, local_mode=local, use_gpu=config.device == "cuda")
    try:
        distributor.run(run_worker, spec_json)
    except RuntimeError as error:
        raise TrainingFailed(f"training under Spark failed: {error}") from error
