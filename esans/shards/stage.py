"""The shards stage."""

from __future__ import annotations

from esans.bundle import BundleWriter
from esans.columns import KNOWN_SIZE
from esans.shards.config import ShardsConfig
from esans.stage import Inputs, Stage


class Shards(Stage):
    """Training examples, shuffled into Parquet files that Petastorm reads: one row group a file, fixed-length lists."""

    name = "shards"
    code_version = 1
    inputs = ("prepare",)
    config: ShardsConfig

    def run(self, inputs: Inputs, out: BundleWriter) -> None:
        """Write `examples` and `target_counts`."""
        from esans.progress import spark_step
        from esans.shards.examples import build_examples, count_targets, known_positives, train_positives
        from esans.shards.layout import check_row_groups, shuffle

        spark, prepared = self.context.spark, inputs["prepare"]
        train = train_positives(prepared, spark, self.config)
        examples = build_examples(train, known_positives(train), self.config)
        with spark_step(spark, "examples"):
            table = out.write("examples", shuffle(examples, prepared.facts["num_train"], self.config, self.context.seed))
        check_row_groups(table)
        with spark_step(spark, "target counts"):
            out.write("target_counts", count_targets(spark.read.parquet(table.uri)))
        out.state(
            {
                "num_items": prepared.facts["num_items"],
                "num_users": prepared.facts["num_users"],
                "num_examples": table.rows,
                "history_length": self.config.history_length,
                "known_size": KNOWN_SIZE,
            }
        )
        out.report({"examples": table.rows, "left_out": prepared.facts["num_train"] - table.rows, "files": len(table.files)})
