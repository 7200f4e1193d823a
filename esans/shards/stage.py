"""The shards stage."""

from __future__ import annotations

from esans import columns as c
from esans.bundle import BundleWriter
from esans.shards.config import ShardsConfig
from esans.stage import Inputs, Stage


class Shards(Stage):
    """Training examples, shuffled into Parquet files that Petastorm reads: one row group a file, fixed-length lists."""

    name = "shards"
    code_version = 1
    inputs = ("prepare",)
    config: ShardsConfig

    @classmethod
    def inputs_for(cls, config: ShardsConfig) -> tuple[str, ...]:
        """The clusters too where negatives are drawn here; otherwise new clusters leave the shards as they are."""
        return (*cls.inputs, "cluster") if config.stitch.draws else cls.inputs

    def run(self, inputs: Inputs, out: BundleWriter) -> None:
        """Write `examples` and `target_counts`.

        Raises:
            ConfigError: orders, exposures or more clusters are asked for than there are.
            DataError: no example is left, or a file holds more than one row group.
        """
        from esans.progress import spark_step
        from esans.shards.examples import build_examples, count_targets, known_positives, train_positives
        from esans.shards.exposures import exposed_before, exposures_of, mean_exposures
        from esans.shards.layout import check_row_groups, shuffle
        from esans.shards.stitch import shapes, stitch

        spark, prepared = self.context.spark, inputs["prepare"]
        train = train_positives(prepared, spark, self.config)
        examples = build_examples(train, known_positives(train), self.config)
        columns = shapes(self.config.stitch)
        if self.config.exposures:
            shown = exposed_before(exposures_of(prepared, spark), train, self.config.exposures)
            examples = examples.join(shown, [c.USER_IDX, c.TIMESTAMP])
            columns[c.EXPOSED] = (self.config.exposures,)
        examples = shuffle(examples, prepared.facts["num_train"], self.config, self.context.seed)
        if self.config.stitch.draws:
            # Last, so that negatives are not shuffled along, and row by row in an order that a retry meets again.
            examples = stitch(examples, inputs["cluster"], self.config.stitch, self.context.seed)
        with spark_step(spark, "examples"):
            table = out.write("examples", examples)
        check_row_groups(table)
        with spark_step(spark, "target counts"):
            out.write("target_counts", count_targets(table.spark(spark)))
        out.state(
            {
                "num_items": prepared.facts["num_items"],
                "num_users": prepared.facts["num_users"],
                "num_examples": table.rows,
                "history_length": self.config.history_length,
                "known_size": c.KNOWN_SIZE,
                "columns": columns,
            }
        )
        if self.config.exposures:
            with spark_step(spark, "exposures"):
                out.report({"exposures_per_example": mean_exposures(table.spark(spark))})
        out.report({"examples": table.rows, "left_out": prepared.facts["num_train"] - table.rows, "files": len(table.files)})
