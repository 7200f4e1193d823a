"""How training processes start: what esans.launch does for any stage, with the worker of this one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esans import launch as processes
from esans.launch import LaunchFailed as TrainingFailed
from esans.train.config import LaunchConfig, TrainConfig

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["TrainingFailed", "follow_if_not_leader", "launch", "release_followers"]

_WORK = "esans.train.worker:run_worker"


def launch(spec_json: str, config: LaunchConfig, scratch_uri: str, spark: SparkSession | None) -> None:
    """Run the workers to their end. Raises TrainingFailed when one of them fails."""
    processes.launch(_WORK, spec_json, config, scratch_uri, spark, what="training")


def follow_if_not_leader(config: TrainConfig) -> bool:
    """On ranks other than 0 of an outer torchrun: wait for the leader's spec, work, and return True. Elsewhere False."""
    return processes.follow_if_not_leader(config.launch)


def release_followers(config: TrainConfig) -> None:
    """On rank 0 of an outer torchrun: send the others home when there was nothing to train."""
    processes.release_followers(config.launch)
