"""Stage `align`: one space for the modalities, and where asked, the codebooks that are trained with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esans.align.config import AlignConfig
from esans.bundle import BundleWriter
from esans.progress import say
from esans.stage import Inputs, Stage

if TYPE_CHECKING:
    from esans.align.worker import Fitted
    from esans.bundle import Bundle


class Align(Stage):
    """One space for the modalities: a head for each, trained by contrast with the others (METHOD 1)."""

    name = "align"
    code_version = 3
    inputs = ("features",)
    config: AlignConfig

    def run(self, inputs: Inputs, out: BundleWriter) -> None:
        """Write aligned vectors, heads and codebooks; items without any modality are counted and get no row.

        Raises:
            ConfigError: there is no such device here, or not the processes that the config names.
            DataError: too few items for the codebooks that are asked for.
            LaunchFailed: a process of the fit failed.
        """
        import torch

        from esans.align.earlier import Earlier, Unchanged
        from esans.align.reader import Reader
        from esans.align.worker import build_model, modality_lengths
        from esans.align.writer import write_codebooks, write_vectors
        from esans.launch import pick_device
        from esans.lineage import feature_spaces, space_of

        features = inputs["features"]
        modalities = modality_lengths(features)
        model = build_model(self.config, modalities, self.context.seed)
        earlier = Earlier.open(inputs["previous"]) if "previous" in inputs else None
        if earlier is not None:
            earlier.check(self.config, features, modalities, model.state_dict())
            model.load_state_dict(earlier.heads)
        frozen = earlier is not None and self.config.previous_mode == "frozen"
        if len(modalities) == 1:
            name, dim = next(iter(modalities.items()))
            kind = "taken as they are" if dim == self.config.dim else f"turned into {self.config.dim} by a random orthonormal matrix"
            say(f"  only one modality ({name}): nothing to align; its {dim} floats are {kind}")
        if earlier is not None and frozen:
            write_codebooks(earlier.books, out)
        elif len(modalities) > 1 or self.config.codebooks == "vq":
            fitted = self._fit(features, inputs.get("previous"), out)
            model.load_state_dict(fitted.heads)
            write_codebooks(fitted.books, out)
        model.eval().to(pick_device(self.config.launch, "align.launch"))
        with out.local("vectors") as folder:
            reader = Reader(features.table("vectors"), modalities, self.config.buffer_items)
            unchanged = Unchanged(earlier.bundle.table("vectors"), model.names) if earlier is not None and frozen else None
            unaligned = write_vectors(reader, model, folder, self.config.rows_per_file, unchanged)
        table = out.adopt("vectors")
        with out.local("heads.pt") as path:
            torch.save(model.cpu().state_dict(), path)
        say(f"  {table.rows:,} items aligned" + (f"; {unaligned:,} have no modality and no cluster" if unaligned else ""))
        if earlier is not None and unchanged is not None:
            say(f"  heads of {earlier.bundle.uri}: {unchanged.kept:,} vectors kept, {unchanged.changed:,} changed, {unchanged.new:,} new")
            out.report(unchanged.figures)
            out.state({"space": space_of(earlier.bundle)})
        out.report({"aligned": table.rows, "unaligned": unaligned})
        facts = {"num_items": features.facts["num_items"], "modalities": list(modalities), "codebooks": self.config.codebooks}
        out.state({**facts, "dim": self.config.dim, "unaligned": unaligned, "feature_spaces": feature_spaces(features)})

    def _fit(self, features: Bundle, previous: Bundle | None, out: BundleWriter) -> Fitted:
        from esans.align.figures import curve_figure
        from esans.align.worker import WORK, Fitted, WorkerSpec
        from esans.config import to_dict
        from esans.launch import launch

        run, config = self.context.run, self.config
        spec = WorkerSpec(
            config=to_dict(config),
            features=features.uri,
            scratch_uri=out.scratch_uri,
            seed=self.context.seed,
            run_id=run.run_id,
            tracking_uri=run.tracking_uri,
            work_dir=self.context.work_dir,
            deliver_seconds=self.context.tracking_config.deliver_seconds,
            previous=previous.uri if previous is not None else "",
        )
        spark = self.context.spark if config.launch.mode == "spark" else None
        launch(WORK, spec.dump(), config.launch, out.scratch_uri, spark, what="alignment")
        fitted = Fitted.read(out.scratch_uri)
        curve = fitted.curve
        run.figure(curve_figure(curve), "alignment.png")
        recalls, books = curve.recalls[curve.best], curve.books[curve.best]
        out.report({**recalls, **books, "loss": curve.loss[curve.best], "epochs": len(curve.loss), "best_epoch": curve.best})
        for name, value in recalls.items():
            say(f"  {name.partition('.')[2].replace('_', ' ')}: held-out recall@10 {value:.3f}")
        if not recalls and len(features.facts["modalities"]) > 1:
            say("  too few items with two modalities to measure retrieval across them: trained for all epochs, no early stopping")
        for level, book in fitted.books.items():
            used, effective = books[f"vq.{level}.utilisation"], books[f"vq.{level}.perplexity"]
            say(f"  {level} codebook: {len(book):,} codes, {used:.1%} in use, perplexity {effective:,.0f}")
        return fitted
