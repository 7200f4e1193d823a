"""The prepare stage: raw tables in; clean numbered tables, splits, histories and popularity out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from esans.bundle import BundleWriter
from esans.prepare.config import PrepareConfig
from esans.stage import Inputs, Stage

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


class Prepare(Stage):
    """Clean interactions, id maps, splits, histories and popularity; rejected rows kept apart.

    Reads the raw tables of `prepare.items` and `prepare.interactions`; docs/your-data.md tells their contract.
    """

    name = "prepare"
    code_version = 1
    config: PrepareConfig

    @classmethod
    def outside_inputs(cls, config: Any) -> dict[str, Any]:
        """Fingerprints of the raw tables' files, or the snapshots that stand for them."""
        from esans.prepare.fingerprint import outside_inputs

        return outside_inputs(config)

    def run(self, inputs: Inputs, out: BundleWriter) -> None:
        """Check both tables, then number, split and count; later tables are made from the earlier ones as written."""
        from esans import columns as C
        from esans.prepare import events, filters, log, tables
        from esans.prepare.interactions import check_interactions
        from esans.prepare.items import check_items
        from esans.prepare.validate import check_columns, read_tables
        from esans.progress import say, spark_step

        spark, config = self.context.spark, self.config
        earlier = inputs.get("previous")
        old_items = tables.previous_map(earlier, "items", C.ITEM_ID, C.ITEM_IDX, spark)
        old_users = tables.previous_map(earlier, "users", C.USER_ID, C.USER_IDX, spark)
        kept = log.earlier_log(earlier, config, spark)

        raw = check_columns(read_tables(spark, config), config)
        with spark_step(spark, "check items"):
            items = check_items(raw.items, config.items)
        self._tell(items)
        with spark_step(spark, "write items"):
            item_map = tables.write_items(out, items.good, old_items, spark)
        if raw.images is not None:
            with spark_step(spark, "write images"):
                out.report({"num_images": tables.write_images(out, raw.images, items.good, item_map, str(config.items.columns.image))})
        with spark_step(spark, "check interactions"):
            # Without an earlier map every numbered item is in the catalogue.
            catalogue = item_map.frame if old_items is None else item_map.frame.join(items.good.select(C.ITEM_ID), C.ITEM_ID, "left_semi")
            orders = config.split.method == "last_basket"
            since = None if kept is None else kept.since
            read = check_interactions(
                raw.interactions, config.interactions, catalogue, orders=orders, until=config.until_seconds, since=since
            )
            checked = read if kept is None else kept.extended(read, catalogue, config.interactions.columns.item_id)
        self._tell(checked)
        if kept is not None:
            say(f"  interactions: {checked.total - read.total:,} of them from the log of the earlier bundle, the rest read anew")
        if config.log.write:
            with spark_step(spark, "write the log"):
                out.write(log.TABLE, log.written(read, kept))
        with spark_step(spark, "write rejected rows"):
            out.write("rejected", items.rejected.unionByName(checked.rejected))
        with spark_step(spark, "event rules and minimum counts"):
            found = events.classify(checked.good, config.events)
            positives = filters.filter_rare(found.positives, config.filters, lambda rows, step: out.keep(f"positives-{step}", rows, spark))
        with spark_step(spark, "number users"):
            user_map = tables.write_users(out, positives, old_users, spark)
        with spark_step(spark, f"split ({config.split.method})"):
            rows = tables.write_interactions(out, positives, user_map, config, self.context.seed, spark)
        if config.events.exposures:
            with spark_step(spark, "write exposures"):
                out.report({"num_exposures": tables.write_exposures(out, found.exposures, user_map)})
        with spark_step(spark, "histories and popularity"):
            histories, popularity = tables.write_histories(out, rows, item_map, config, spark)
        out.state({"num_items": item_map.size, "num_users": user_map.size, "until": config.until, "until_seconds": config.until_seconds})
        out.state({"id_maps": tables.id_maps(item_map, user_map, earlier)})
        out.report({"interactions.read": read.total})
        self._report(out, [items, checked], found.counts, rows, histories, popularity)
        spark.catalog.clearCache()

    def _tell(self, checked: Any) -> None:
        """Print the counts of one table, keep them as figures, and stop when too many rows are rejected."""
        from esans.prepare.rejects import describe, enforce_share
        from esans.progress import say

        say(f"  {checked.name}: {checked.total:,} rows, {checked.num_rejected:,} rejected")
        for line in describe(checked.rejects):
            say(f"  {line}")
        enforce_share(checked, self.config.max_rejected_share)

    def _report(
        self, out: BundleWriter, checked: list[Any], events: dict[str, int], rows: DataFrame, histories: DataFrame, popularity: DataFrame
    ) -> None:
        from esans.prepare import report
        from esans.progress import say

        counts = report.split_counts(rows, histories)
        report.require_tested(counts, self.config)
        rule = report.split_rule(self.config)
        facts = report.facts(self.config, counts, rule, self.context.seed)
        out.state(facts)
        out.report({**report.figures(checked, events, counts)})
        for line in report.lines(counts, rule):
            say(f"  {line}")
        run = self.context.run
        run.text("\n".join(report.lines(counts, rule)) + "\n", "split.txt")
        run.figure(report.rows_figure(counts), "plots/rows_per_split.png")
        run.figure(report.history_figure(histories, self.config.max_history), "plots/history_lengths.png")
        run.figure(report.popularity_figure(popularity), "plots/popularity.png")
