"""The export stage: what serving needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from esans.export.config import ExportConfig
from esans.progress import say
from esans.stage import Inputs, Stage

if TYPE_CHECKING:
    from pathlib import Path

    from esans.bundle import BundleWriter
    from esans.model import TwoTower


class Export(Stage):
    """Vectors, a faiss index with its measured recall, both towers, what changed since an earlier export, and the registered model."""

    name: ClassVar[str] = "export"
    code_version: ClassVar[int] = 3
    inputs: ClassVar[tuple[str, ...]] = ("prepare", "train")
    config: ExportConfig

    def run(self, inputs: Inputs, out: BundleWriter) -> None:
        """Tables `item_vectors`, `user_vectors`, what changed in them, `ann`; folders `retriever`, `towers`; a version in the registry."""
        from esans.export.ann import measure_export
        from esans.export.index import build_index
        from esans.export.retriever import write_folder
        from esans.export.sample import UserSample
        from esans.export.vectors import read_item_ids, write_item_vectors, write_user_vectors
        from esans.model import load
        from esans.retrieval.encode import encode_catalogue, pick_device
        from esans.retrieval.evaluation import Catalogue

        prepare, config = inputs["prepare"], self.config
        device = pick_device(config.device, "export.device")
        with inputs["train"].local("model") as model_folder:
            model = load(model_folder, device)
            vectors, catalogue, item_ids = encode_catalogue(model, device), Catalogue.read(prepare), read_item_ids(prepare)
            write_item_vectors(out, item_ids, vectors)
            sample = UserSample(int(prepare.facts["num_users"]), config.index.measured_users)
            if config.user_vectors:
                users = write_user_vectors(out, prepare, model, config.user_batch, device, sample.add)
                say(f"  vectors of {len(vectors):,} items and {users:,} users")
            else:
                sample.read(prepare, model, config.user_batch, device)
            offered = vectors[catalogue.available.to(device)]
            index = build_index(offered.cpu().numpy(), config.index, self.context.seed)
            measure_export(index, config.index, sample.vectors.to(device), offered, out, self.context.run.figure)
            self._write_delta(inputs, out)
            self._write_towers(out, model)
            # Last: nothing that can fail comes after a version is in the registry.
            with out.local("retriever") as folder:
                write_folder(folder, model_folder, index, item_ids, catalogue.counts.numpy(), catalogue.available.numpy())
                if config.registry.register:
                    self._register(out, folder, sample.raw_histories(item_ids))

    @classmethod
    def previous_uri(cls, config: ExportConfig) -> str | None:
        """The export that a delta is written against."""
        return config.delta_from

    def _write_towers(self, out: BundleWriter, model: TwoTower) -> None:
        from esans.export.plain import describe
        from esans.export.towers import export_towers

        towers = {}
        if self.config.towers:
            with out.local("towers") as folder:
                towers = export_towers(model, folder)
        out.state({"files": describe(out, towers)})

    def _write_delta(self, inputs: Inputs, out: BundleWriter) -> None:
        from esans.columns import ITEM_ID, ITEM_IDX, USER_ID, USER_IDX
        from esans.export.delta import write_delta

        if "previous" not in inputs:
            return
        old = inputs["previous"]
        for kind, index, key in (("item", ITEM_IDX, ITEM_ID), ("user", USER_IDX, USER_ID)):
            name = f"{kind}_vectors"
            if not (old.has(name) and name in out.tables):
                continue
            changes = write_delta(out, name, old.table(name), out.adopt(name), index, key, self.config.delta_tolerance)
            say(f"  {name}: {changes.changed:,} of {changes.rows:,} changed ({changes.share:.1%}), {changes.removed:,} removed")
            prefix = f"delta.{kind}s"
            out.report({f"{prefix}_changed": changes.changed, f"{prefix}_share": changes.share, f"{prefix}_removed": changes.removed})

    def _register(self, out: BundleWriter, folder: Path, example: list[list[str]]) -> None:
        from esans.export.registry import register

        registry = self.config.registry
        tags = {"method": self.context.method, "bundle": out.uri, "fingerprint": out.fingerprint}
        version = register(self.context.run, folder, example, registry, tags)
        out.state({"registered_name": registry.name, "registered_version": version})
        say(f"  registered models:/{registry.name}/{version}, now @{registry.alias}")
