"""The train stage."""

from __future__ import annotations

import json

from esans.bundle import BundleWriter
from esans.config import to_dict
from esans.stage import Inputs, Stage
from esans.train.config import TrainConfig
from esans.uri import join


class Train(Stage):
    """Two towers with negatives from the cluster tables, on one or many processes."""

    name = "train"
    code_version = 1
    inputs = ("prepare", "features", "align", "cluster", "shards")
    config: TrainConfig

    def run(self, inputs: Inputs, out: BundleWriter) -> None:
        """Write the folder `model` and the table `epochs`."""
        import fsspec
        import pyarrow as pa

        from esans.train.launch import launch
        from esans.train.plots import curves
        from esans.train.worker import WorkerSpec

        run, context = self.context.run, self.context
        spec = WorkerSpec(
            config=to_dict(self.config),
            inputs={name: bundle.uri for name, bundle in inputs.items()},
            model_uri=join(out.data_uri, "model"),
            scratch_uri=out.scratch_uri,
            seed=context.seed,
            run_id=run.run_id,
            tracking_uri=run.tracking_uri,
        )
        launch(spec.dump(), self.config.launch, out.scratch_uri, context.spark if self.config.launch.mode == "spark" else None)
        with fsspec.open(join(out.scratch_uri, "result.json"), "r") as stream:
            result = json.load(stream)
        records = result["records"]
        renamed = [{name.replace("@", "_at_"): value for name, value in record.items()} for record in records]
        out.write_arrow("epochs", pa.Table.from_pylist(renamed))
        run.figure(curves(renamed), "curves.png")
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
        out.report({"examples_per_second": examples / seconds, "train_seconds": seconds, "best_epoch": result["best_epoch"]})
        out.report({f"validation_{name}": best[name] for name in best if "@" in name or name == "mrr"})
