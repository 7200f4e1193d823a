"""The whole configuration: one section a stage, read from YAML files, a method's overlay and dotted overrides."""

from __future__ import annotations

import dataclasses
import posixpath
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import fsspec

from esans.align.config import AlignConfig
from esans.cluster.config import ClusterConfig
from esans.config import Runtime, build, config, merge, parse_override, read_yaml, section
from esans.errors import ConfigError
from esans.evaluate.config import EvaluateConfig
from esans.export.config import ExportConfig
from esans.features.config import FeaturesConfig
from esans.observe import LoggingConfig
from esans.prepare.config import PrepareConfig
from esans.recommend.config import RecommendConfig
from esans.references.config import ReferencesConfig
from esans.retrain.config import RetrainConfig
from esans.roots import Place, check_places
from esans.shards.config import ShardsConfig
from esans.spark import SparkConfig
from esans.tracking import TrackingConfig
from esans.train.config import TrainConfig

# The only sections that a method's overlay may set: everything above train is shared between methods.
_OVERLAY_SECTIONS = {"train"}


@config
class PipelineConfig:
    """Keys under `pipeline`: what `esans pipeline` runs."""

    methods: Annotated[list[str], Runtime] = dataclasses.field(default_factory=lambda: ["esans"])
    """Negative-sampling methods to train, evaluate and export in turn: names of files in conf/experiments."""
    name: Annotated[str, Runtime] = "pipeline"
    """Name of the parent run in MLflow and of the report in the work directory."""


@config
class Settings:
    """The whole configuration."""

    work_dir: Annotated[str, Runtime, Place] = "work"
    """Folder (any fsspec URI) for bundles, the default MLflow store and reports; relative paths start where you are."""
    allowed_roots: Annotated[list[str], Runtime] = dataclasses.field(default_factory=list)
    """URIs that all other places in the configuration must lie below, beside the work directory: raw tables, earlier bundles, weights.
    Empty: any store of files. ESANS_ALLOWED_ROOTS, separated by commas, holds beside it, and nothing here widens that."""
    seed: Annotated[int, Runtime] = 0
    """Seed of everything random. The same seed, data and world size give the same batches."""
    method: Annotated[str | None, Runtime] = None
    """Negative-sampling method of a single train, evaluate or export: the name of a file in conf/experiments."""
    spark: SparkConfig = section(SparkConfig)
    """How Spark runs."""
    tracking: TrackingConfig = section(TrackingConfig)
    """Where runs are remembered."""
    logging: LoggingConfig = section(LoggingConfig)
    """What machines are told."""
    pipeline: PipelineConfig = section(PipelineConfig)
    """What `esans pipeline` runs."""
    prepare: PrepareConfig = section(PrepareConfig)
    """Raw tables, their columns and the split."""
    features: FeaturesConfig = section(FeaturesConfig)
    """Text, image and behaviour vectors."""
    align: AlignConfig = section(AlignConfig)
    """One space for the modalities."""
    cluster: ClusterConfig = section(ClusterConfig)
    """MSAC codebooks and tables."""
    shards: ShardsConfig = section(ShardsConfig)
    """Training examples."""
    references: ReferencesConfig = section(ReferencesConfig)
    """Popularity and item-kNN, to compare with."""
    train: TrainConfig = section(TrainConfig)
    """Towers, negatives and optimiser."""
    evaluate: EvaluateConfig = section(EvaluateConfig)
    """Metrics over the whole catalogue."""
    export: ExportConfig = section(ExportConfig)
    """Index and registry."""
    retrain: RetrainConfig = section(RetrainConfig)
    """The scheduled run: checks, gates, lock and webhook."""
    recommend: RecommendConfig = section(RecommendConfig)
    """What `esans recommend` writes."""


@dataclasses.dataclass(frozen=True)
class Source:
    """What the settings were read from, so that they can be read again for another method."""

    files: tuple[str, ...]
    overrides: tuple[str, ...]

    def load(self, method: str | None = None) -> Settings:
        """Settings with a method's overlay: files < overlay of `method` < overrides.

        Where a file names the method itself, the overlay goes right beneath that file, so that what --print_config prints
        reads back as itself.

        Raises:
            ConfigError: a file is missing or broken, a key unknown, a value impossible, or the method unknown.
        """
        over: dict[str, Any] = {}
        for argument in self.overrides:
            over = merge(over, parse_override(argument))
        layers: list[Mapping[str, Any]] = [read_yaml(file) for file in self.files]
        chosen = method or over.get("method")
        if chosen is not None:
            layers.append(self._overlay(str(chosen)))
            over = {**over, "method": str(chosen)}
        else:
            naming = [place for place, layer in enumerate(layers) if layer.get("method")]
            if naming:
                layers.insert(naming[-1], self._overlay(str(layers[naming[-1]]["method"])))
        values: dict[str, Any] = {}
        for layer in layers:
            values = merge(values, layer)
        settings = build(Settings, merge(values, over))
        check_places(settings, settings.work_dir, settings.allowed_roots)
        settings.train.resolve_groups()
        return settings

    def _overlay(self, method: str) -> Mapping[str, Any]:
        folders = [posixpath.join(posixpath.dirname(file) or ".", "experiments") for file in self.files]
        folders.append("conf/experiments")
        for folder in folders:
            path = posixpath.join(folder, f"{method}.yaml")
            filesystem, stripped = fsspec.core.url_to_fs(path)
            if filesystem.exists(stripped):
                overlay = read_yaml(path)
                foreign = set(overlay) - _OVERLAY_SECTIONS
                if foreign:
                    raise ConfigError(f"{path}: a method may only set {sorted(_OVERLAY_SECTIONS)}, not {sorted(foreign)}")
                return overlay
        raise ConfigError(
            f"method = {method!r}: no {method}.yaml in {', '.join(dict.fromkeys(folders))}. Known: {', '.join(_known(folders)) or 'none'}."
        )


def _known(folders: Sequence[str]) -> list[str]:
    names: set[str] = set()
    for folder in folders:
        filesystem, stripped = fsspec.core.url_to_fs(folder)
        if filesystem.exists(stripped):
            names |= {
                posixpath.basename(path).removesuffix(".yaml") for path in filesystem.ls(stripped, detail=False) if path.endswith(".yaml")
            }
    return sorted(names)
