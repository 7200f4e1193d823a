"""Stage `features`: text, image and behaviour vectors per item, the item graph, and side codes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from esans.bundle import Bundle, BundleWriter, digest
from esans.columns import (
    BEHAVIOUR_MODALITY,
    COUNT,
    IMAGE_MODALITY,
    IMAGE_VECTOR,
    ITEM_IDX,
    MODALITIES,
    TEXT,
    TEXT_MODALITY,
    TEXT_VECTOR,
    TITLE,
)
from esans.errors import BundleError, DataError
from esans.features.registry import (
    AUTO,
    BEHAVIOUR_ENCODERS,
    FITTED,
    IMAGE_ENCODERS,
    NONE,
    TEXT_ENCODERS,
    Interactions,
    Job,
    load,
    outside,
    packages,
)
from esans.features.weights import require_packages
from esans.lineage import SIDE, feature_spaces
from esans.progress import say, spark_step
from esans.stage import Inputs, Stage, StageContext

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from esans.features.vectors import Clean


CONTENT_ENCODERS = {TEXT_MODALITY: TEXT_ENCODERS, IMAGE_MODALITY: IMAGE_ENCODERS}

# Petastorm reads a file at a time, one row group, and the ranks of align share the files out.
_ROWS_PER_FILE = 16_384


class Features(Stage):
    """Text, image and behaviour vectors per item, the item graph, and side columns as codes (METHOD 1)."""

    name = "features"
    code_version = 3
    inputs = ("prepare",)

    def __init__(self, config: Any, context: StageContext) -> None:
        super().__init__(config, context)
        self._spaces: dict[str, str] = {}

    @classmethod
    def outside_inputs(cls, config: Any) -> dict[str, Any]:
        """Digests of the files of model encoders. Raises ConfigError when one is not there."""
        found = {
            name: outside(encoders, getattr(config, name).encoder, getattr(config, name)) for name, encoders in CONTENT_ENCODERS.items()
        }
        return {name: identity for name, identity in found.items() if identity is not None}

    def run(self, inputs: Inputs, out: BundleWriter) -> None:
        """Write graph, vectors and side; behaviour and graph read the train split alone.

        Raises:
            ConfigError: a package that a chosen encoder needs is not installed.
            DataError: no item has a vector in any modality, or a chosen encoder lacks its column.
        """
        for name, encoders in CONTENT_ENCODERS.items():
            require_packages(packages(encoders, getattr(self.config, name).encoder), getattr(self.config, name).encoder, name)
        import numpy as np

        from esans.features.graph import train_events, weigh
        from esans.features.side import CODES, read_meanings, side_codes, to_table

        prepare, spark = inputs["prepare"], self.context.spark
        num_items = int(prepare.facts["num_items"])
        items = prepare.table("items").spark(spark)
        events = train_events(prepare.table("interactions").spark(spark))
        previous = _previous(inputs)
        kept = previous if self.config.keep_space else None
        images = prepare.table("images").spark(spark) if prepare.has("images") else None
        extra = {"previous": previous, "keep_space": self.config.keep_space}
        found = {
            modality: self._encode(modality, items, num_items, out, **extra, images=images) for modality in (TEXT_MODALITY, IMAGE_MODALITY)
        }
        with spark_step(spark, "item graph"):
            count = partial(prepare.table("popularity").dense, ITEM_IDX, COUNT, num_items, np.float64)
            table = out.write("graph", weigh(events, num_items, self.config.behaviour.graph, count, self.context.seed))
        source = Interactions(graph := table.spark(spark), events, table, prepare.table("popularity"))
        found[BEHAVIOUR_MODALITY] = self._encode(BEHAVIOUR_MODALITY, source, num_items, out, **extra)
        modalities = {name: clean for name in MODALITIES if (clean := found[name]) is not None and clean.present}
        if not modalities:
            raise DataError(
                f"items: none of {num_items:,} items has a text, image or behaviour vector.\n"
                "Map a title, text, text_vector or image_vector column in the prepare section, or bring items that share users."
            )
        with spark_step(spark, "vectors and side columns"):
            out.write("vectors", _together(items, modalities), max_records_per_file=_ROWS_PER_FILE)
            codes = side_codes(items, prepare.facts["side"], self.config.side, read_meanings(kept))
            out.write("side", codes.frame.orderBy(ITEM_IDX))
            out.write_arrow(CODES, to_table(codes.meanings))
        out.state(
            {"num_items": num_items, "modalities": {name: clean.dim for name, clean in modalities.items()}, "side": codes.cardinality}
        )
        self._spaces[SIDE] = feature_spaces(kept)[SIDE] if kept is not None and kept.has(CODES) else out.fingerprint
        out.state({"spaces": self._spaces})
        self._report_graph(graph, num_items, out)
        spark.catalog.clearCache()

    def _encode(self, modality: str, source: DataFrame | Interactions, num_items: int, out: BundleWriter, **extra: Any) -> Clean | None:
        from esans.features.vectors import clean

        section, name = getattr(self.config, modality), self._encoder(modality, source, num_items)
        if name == NONE:
            unused = modality == IMAGE_MODALITY and extra.get("images") is not None
            say(f"  {modality}: none" + (" (pictures are mapped: features.image.encoder says what reads them)" if unused else ""))
            return None
        encoders = {**CONTENT_ENCODERS, BEHAVIOUR_MODALITY: BEHAVIOUR_ENCODERS}[modality]
        with spark_step(self.context.spark, f"{modality} vectors") as step:
            job = Job(self.context.spark, modality, self.context.seed, num_items, out, count=step.count, **extra)
            encoded = load(encoders, name)(source, section, job)
            found = clean(encoded.frame, encoded.dim)
            found, figures = self._turned(modality, name, found, job)
        problems = {f"{modality}.{problem}": float(count) for problem, count in found.problems.items()}
        out.report({**encoded.figures, **figures, f"{modality}.coverage": found.present / max(num_items, 1), **problems})
        say(f"  {modality} ({name}): {found.present:,} of {num_items:,} items, {found.dim} floats each")
        for problem, count in found.problems.items():
            if count:
                say(f"  {modality}: {count:,} vectors count as missing ({problem.replace('_', ' ')})")
        return found

    def _turned(self, modality: str, encoder: str, found: Clean, job: Job) -> tuple[Clean, dict[str, float]]:
        """Vectors that a fit has turned, back in the space of the earlier bundle where that is asked for; notes the name of their space."""
        from esans.features.turn import turn
        from esans.features.vectors import VECTOR

        section, previous = getattr(self.config, modality), job.previous
        self._spaces[modality] = job.out.fingerprint
        if encoder not in FITTED:
            self._spaces[modality] = digest([encoder, outside(CONTENT_ENCODERS[modality], encoder, section), found.dim])
        elif job.keep_space and previous is not None:
            if previous.facts["modalities"].get(modality) != found.dim:
                say(f"  {modality}: the earlier bundle has no such vectors of {found.dim} floats, so these lie in a space of their own")
                return found, {}
            earlier = previous.table("vectors").spark(job.spark).select(ITEM_IDX, modality).withColumnRenamed(modality, VECTOR)
            found, figures = turn(found, earlier)
            if figures:
                self._spaces[modality] = feature_spaces(previous)[modality]
                say(f"  {modality}: mean cosine with the earlier vectors {figures['kept_cosine']:.3f}")
            return found, {f"{modality}.{name}": value for name, value in figures.items()}
        return found, {}

    def _encoder(self, modality: str, source: DataFrame | Interactions, num_items: int) -> str:
        chosen = str(getattr(self.config, modality).encoder)
        if chosen != AUTO:
            return chosen
        if isinstance(source, Interactions):
            return "lightgcn" if num_items <= self.config.behaviour.lightgcn.auto_items else "landmarks"
        if modality == IMAGE_MODALITY:
            return "columns" if IMAGE_VECTOR in source.columns else NONE
        if TEXT_VECTOR in source.columns:
            return "columns"
        return "tfidf" if {TEXT, TITLE} & set(source.columns) else NONE

    def _report_graph(self, graph: DataFrame, num_items: int, out: BundleWriter) -> None:
        from pyspark.sql import functions as F

        from esans.features.figures import coverage_figure

        row = graph.agg(F.count(F.lit(1)).alias("edges"), F.count_distinct(ITEM_IDX).alias("items")).first()
        assert row is not None
        out.report({"graph.edges": row["edges"], "graph.items": row["items"], "graph.coverage": row["items"] / max(num_items, 1)})
        self.context.run.figure(coverage_figure(out.figures), "coverage.png")


def _previous(inputs: Inputs) -> Bundle | None:
    earlier = inputs.get("previous")
    if earlier is not None and earlier.manifest["stage"] != "features":
        raise BundleError(f"features.previous = {earlier.uri}: is a bundle of the {earlier.manifest['stage']} stage, not of features.")
    return earlier


def _together(items: DataFrame, modalities: dict[str, Clean]) -> DataFrame:
    """One row per item in the order of item_idx, a null where a modality is missing."""
    from esans.features.vectors import VECTOR

    table = items.select(ITEM_IDX)
    for name, clean in modalities.items():
        table = table.join(clean.frame.withColumnRenamed(VECTOR, name), ITEM_IDX, "left")
    return table.orderBy(ITEM_IDX)
