"""Evaluate any trained model on any prepare bundle's split: one function, for the stage and for whoever judges models."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

from esans.columns import TEST
from esans.config import to_dict
from esans.evaluate.config import EvaluateConfig
from esans.launch import launch
from esans.retrieval.metrics import ONE
from esans.retrieval.paired import PairedResult, paired_groups
from esans.retrieval.slices import SliceKey

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from esans.bundle import Bundle
    from esans.evaluate.worker import Counted
    from esans.retrieval.evaluation import Evaluation


def evaluate_model(
    model: Bundle,
    prepare: Bundle,
    config: EvaluateConfig | None = None,
    *,
    splits: Sequence[str] = (TEST,),
    method: str = "model",
    scratch_uri: str | None = None,
    per_user_uri: str = "",
    spark: SparkSession | None = None,
) -> dict[str, Counted]:
    """Exact metrics of a model over the whole catalogue, by slice, from as many processes as `config.launch` says.

    `result[split].evaluation.rows(method, split)` has every metric of every slice with its interval, and `compare` tests two
    models on the same users. A model may be older than the prepare bundle, as a champion is on the next day's data: items that it
    does not know are left out of histories and cannot be found.

    Args:
        model: a train bundle, or any bundle with a folder `model`.
        prepare: the bundle whose histories hold the users; it must be the one that the model was trained on, or built on that one.
        config: metrics, slices, processes; the defaults where None.
        splits: validation, test or both.
        method: how rows by user name the model.
        scratch_uri: where processes exchange what they counted; a temporary folder here where None, which other hosts cannot read.
        per_user_uri: folder of a `per_user` table to write, one file a process; empty for none.
        spark: the session, for launch.mode=spark only.

    Returns:
        What was counted, by split.

    Raises:
        ConfigError: a column to slice by is not there, or there is no such device.
        BundleError: the model knows items that the prepare bundle does not.
        LaunchFailed: one of several processes failed.
    """
    from esans.evaluate.worker import WORK, EvaluateSpec, read_counted

    config = config or EvaluateConfig()
    with tempfile.TemporaryDirectory(prefix="esans-evaluate-") as folder:
        spec = EvaluateSpec(
            config=to_dict(config),
            model=model.uri,
            prepare=prepare.uri,
            splits=list(splits),
            method=method,
            scratch_uri=scratch_uri or folder,
            per_user_uri=per_user_uri,
        )
        launch(WORK, spec.dump(), config.launch, spec.scratch_uri, spark, what="evaluation")
        return read_counted(spec, config)


def compare(
    candidate: Evaluation, baseline: Evaluation, resamples: int = 10_000, seed: int = 0
) -> dict[tuple[SliceKey, str], PairedResult]:
    """Candidate against baseline on the same users, for every metric of every slice with users, by a paired bootstrap.

    Groups of users are drawn, so memory does not grow with the users.

    Args:
        candidate: `a` of the results.
        baseline: `b`.
        resamples: draws.
        seed: of the draws.

    Raises:
        ValueError: the two were not made over the same users, targets and slices.
    """
    a, b = candidate.by_slice, baseline.by_slice
    if candidate.keys != baseline.keys or a.names != b.names or not bool((a.users == b.users).all()):
        raise ValueError("two evaluations can be compared where both ranked the same users of one split, with the same metrics and slices")
    sums_a, sums_b = (sums.permute(1, 0, 2).numpy() / ONE for sums in (a.sums, b.sums))
    results = paired_groups(sums_a, sums_b, a.users.T.numpy(), resamples, seed, candidate.config.confidence)
    return {
        (key, name): result
        for key, of_slice in zip(candidate.keys, results, strict=True)
        for name, result in zip(a.names, of_slice, strict=True)
        if result.users
    }
