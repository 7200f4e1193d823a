"""What every stage is: named inputs, a config section, a code version, and `run`, which writes one bundle."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from esans.bundle import Bundle, BundleWriter
from esans.spark import SparkConfig, event_log_of, open_session
from esans.tracking import Run, TrackingConfig

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# The inputs of a stage by stage name, and `previous` where the config names an earlier bundle to build on.
Inputs = Mapping[str, Bundle]


@dataclass
class StageContext:
    """What a running stage may use beside its inputs."""

    seed: int
    work_dir: str
    spark_config: SparkConfig
    tracking_config: TrackingConfig
    run: Run
    """The MLflow run of this stage."""
    method: str = ""
    """Name of the negative-sampling method, for stages from train on."""

    @cached_property
    def spark(self) -> SparkSession:
        """The Spark session, started on first use so that torch-only stages never pay for it."""
        session = open_session(self.spark_config, "esans", self.work_dir)
        log = event_log_of(session)
        if log is not None:
            self.run.tag(spark_event_log=log)
        return session


class Stage(ABC):
    """One arrow of the flow. Subclasses are light to import: what is heavy is imported inside `run`."""

    name: ClassVar[str]
    """The word of the folder, the job, the config section and the bundle."""
    code_version: ClassVar[int]
    """Raised by hand when the same inputs and config give another result."""
    inputs: ClassVar[tuple[str, ...]] = ()
    """Stages whose bundles this one always reads."""

    def __init__(self, config: Any, context: StageContext) -> None:
        self.config = config
        self.context = context

    @abstractmethod
    def run(self, inputs: Inputs, out: BundleWriter) -> None:
        """Write every table of the bundle to `out`, and report figures and facts."""

    @classmethod
    def inputs_for(cls, config: Any) -> tuple[str, ...]:
        """Stages whose bundles this one reads under a config: `inputs`, and what only some configs need."""
        return cls.inputs

    @classmethod  # noqa: B027 - a hook, which most stages leave empty
    def check(cls, settings: Any) -> None:
        """Refuse settings whose sections contradict each other, by raising ConfigError before any stage runs."""

    @classmethod
    def outside_inputs(cls, config: Any) -> dict[str, Any]:
        """What the stage reads besides bundles, as it is now (file names, sizes, digests): part of the fingerprint."""
        return {}

    @classmethod  # noqa: B027 - a hook, which most stages leave empty
    def accept(cls, config: Any, bundle: Bundle) -> None:
        """Refuse a finished bundle that the config of today no longer wants, by raising; keys outside the fingerprint can ask for that."""

    @classmethod
    def previous_uri(cls, config: Any) -> str | None:
        """An earlier bundle of this stage to build on: an explicit URI, never 'latest'."""
        return getattr(config, "previous", None)
