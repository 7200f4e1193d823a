"""The train stage."""

from __future__ import annotations

import json
from typing import Any

from esans.bundle import BundleWriter
from esans.config import flatten, to_dict
from esans.model.config import need_torchrec
from esans.negatives.config_shards import check_sources
from esans.stage import Inputs, Stage
from esans.train.config import TrainConfig
from esans.uri import join


class Train(Stage):
    """Two towers with negatives from the cluster tables, on one or many processes."""

    name = "train"
    code_version = 1
    inputs = ("prepare", "features", "align", "cluster", "shards")
    config: TrainConfig

    @classmethod
    def check(cls, settings: Any) -> None:
        """Raise ConfigError where a group of negatives reads from the shards what `shards` does not write, or TorchRec is missing."""
        if settings.train.model.tables == "sharded":
            need_torchrec()
        check_sources(settings.train.negatives, flatten(to_dict(settings.shards)))

    @classmethod
    def previous_uri(cls, config: Any) -> str | None:
        """The bundle to go on from; a version of the registry is looked up when the stage runs."""
        found: str | None = config.warm_start
        return None if found is None or found.startswith("models:/") else found

    def run(self, inputs: Inputs, out: BundleWriter) -> None:
        """Write the folder `model`, the file `training.pt` for a warm start, and the table `epochs`.

        Raises:
            ConfigError: `warm_start` is not of these towers, items and users.
        """
        import fsspec
        import pyarrow as pa

        from esans.train.kept import FILE
        from esans.train.launch import launch
        from esans.train.plots import curves, negatives
        from esans.train.registered import bundle_of
        from esans.train.warm_start import ancestry, facts_of
        from esans.train.watch import DIAGNOSIS
        from esans.train.worker import WorkerSpec

        run, context = self.context.run, self.context
        if self.config.warm_start is not None and "previous" not in inputs:
            inputs = {**inputs, "previous": bundle_of(self.config.warm_start, run.tracking_uri)}
        spec = WorkerSpec(
            config=to_dict(self.config),
            inputs={name: bundle.uri for name, bundle in inputs.items()},
            model_uri=join(out.data_uri, "model"),
            scratch_uri=out.scratch_uri,
            seed=context.seed,
            run_id=run.run_id,
            tracking_uri=run.tracking_uri,
            work_dir=context.work_dir,
            deliver_seconds=context.tracking_config.deliver_seconds,
            kept_uri=join(out.data_uri, FILE),
        )
        launch(spec.dump(), self.config.launch, out.scratch_uri, context.spark if self.config.launch.mode == "spark" else None)
        with fsspec.open(join(out.scratch_uri, "result.json"), "r") as stream:
            result = json.load(stream)
        records = result["records"]
        # A group that enters late has no figures before.
        names = dict.fromkeys(name for record in records for name in record)
        renamed = [{name.replace("@", "_at_"): record.get(name) for name in names} for record in records]
        out.write_arrow("epochs", pa.Table.from_pylist(renamed))
        run.figure(curves(renamed), "curves.png")
        run.figure(negatives(records), "negatives.png")
        seconds = sum(record["seconds"] for record in records)
        examples = sum(record["seconds"] * record["examples_per_second"] for record in records)
        best = records[result["best_epoch"]] if result["best_epoch"] >= 0 else records[-1]
        out.state(
            {
                "method": context.method,
                "best_epoch": result["best_epoch"],
                "epochs": len(records),
                "processes": self.config.launch.processes,
            }
        )
        out.state({**facts_of(inputs), **ancestry(inputs)})
        out.report({"examples_per_second": examples / seconds, "train_seconds": seconds, "best_epoch": result["best_epoch"]})
        out.report({f"validation_{name}": best[name] for name in best if "@" in name or name == "mrr"})
        out.report({name: value for name, value in records[-1].items() if name.startswith(DIAGNOSIS)})
