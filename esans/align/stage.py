"""Stage `align`: one space for the modalities."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esans.bundle import BundleWriter
from esans.errors import ConfigError
from esans.progress import say
from esans.stage import Inputs, Stage

if TYPE_CHECKING:
    import torch

    from esans.align.model import Aligner
    from esans.align.reader import Reader


class Align(Stage):
    """One space for the modalities: a head for each, trained by contrast with the others (METHOD 1)."""

    name = "align"
    code_version = 1
    inputs = ("features",)

    def run(self, inputs: Inputs, out: BundleWriter) -> None:
        """Write aligned vectors and the heads; items without any modality are counted and get no row.

        Raises:
            ConfigError: `device` is not a device of this machine.
        """
        import torch

        from esans.align.model import Aligner
        from esans.align.reader import Reader
        from esans.align.writer import write_vectors

        features = inputs["features"]
        lengths = features.facts["modalities"]
        modalities: dict[str, int] = {name: int(lengths[name]) for name in sorted(lengths, key=_order)}
        reader = Reader(features.table("vectors"), modalities, self.config.buffer_items)
        hidden = self.config.hidden if self.config.head == "mlp" and len(modalities) > 1 else None
        model = Aligner(modalities, self.config.dim, hidden, self.context.seed).to(self._device())
        if len(modalities) > 1:
            self._fit(model, reader, out)
        else:
            name, dim = next(iter(modalities.items()))
            kind = "taken as they are" if dim == self.config.dim else f"turned into {self.config.dim} by a random orthonormal matrix"
            say(f"  only one modality ({name}): nothing to align; its {dim} floats are {kind}")
        model.eval()
        with out.local("vectors") as folder:
            unaligned = write_vectors(reader, model, folder, self.config.rows_per_file)
        table = out.adopt("vectors")
        with out.local("heads.pt") as path:
            torch.save(model.state_dict(), path)
        say(f"  {table.rows:,} items aligned" + (f"; {unaligned:,} have no modality and no cluster" if unaligned else ""))
        out.report({"aligned": table.rows, "unaligned": unaligned})
        facts = {"num_items": features.facts["num_items"], "modalities": list(modalities)}
        out.state({**facts, "dim": self.config.dim, "unaligned": unaligned})

    def _fit(self, model: Aligner, reader: Reader, out: BundleWriter) -> None:
        from esans.align.figures import curve_figure
        from esans.align.trainer import Trainer

        run = self.context.run
        curve = Trainer(self.config, model, reader, self.context.seed, watch=lambda epoch, found: run.metrics(found, epoch)).fit()
        run.figure(curve_figure(curve), "alignment.png")
        recalls = curve.recalls[curve.best]
        out.report({**recalls, "loss": curve.loss[curve.best], "epochs": len(curve.loss), "best_epoch": curve.best})
        for name, value in recalls.items():
            say(f"  {name.partition('.')[2].replace('_', ' ')}: held-out recall@10 {value:.3f}")
        if not recalls:
            say("  too few items with two modalities to measure retrieval across them: trained for all epochs, no early stopping")

    def _device(self) -> torch.device:
        import torch

        name = self.config.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            device = torch.device(name)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f"align.device = {name!r}: {str(error).splitlines()[0]}. Use auto or cpu.") from None
        return device


def _order(name: str) -> int:
    from esans.columns import MODALITIES

    return MODALITIES.index(name) if name in MODALITIES else len(MODALITIES)
