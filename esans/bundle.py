"""Versioned stage outputs: tables and files behind a manifest that is written last (contract 1).

    <work_dir>/<stage>/<fingerprint>/manifest.json     appears only when everything it lists is in place
    <work_dir>/<stage>/<fingerprint>/attempt-<id>/...  each attempt writes into a folder of its own

No manifest, no bundle: a killed stage leaves nothing that a later one can mistake for a result. Replacing one small
file is atomic on every object store, where renaming a folder is not; hence the attempt folders.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pyarrow as pa

from esans import __version__
from esans.errors import BundleError
from esans.lake import parquet_files, read_parquet, write_parquet
from esans.redaction import redact_values
from esans.roots import check_bundle
from esans.table import DataFile, Table
from esans.uri import all_below, below, canonical, is_local, join, write_text

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

MANIFEST = "manifest.json"
_KEPT = "kept"


@dataclass(frozen=True)
class Bundle:
    """A finished stage output, read by URI."""

    uri: str
    manifest: Mapping[str, Any]

    @classmethod
    def find(cls, uri: str) -> Bundle | None:
        """The bundle at `uri`, or None when it was never finished.

        Raises:
            BundleError: its manifest is no JSON, or it lies where this process may not read (esans/roots.py).
        """
        check_bundle(uri)
        try:
            with fsspec.open(join(uri, MANIFEST), "r") as stream:
                manifest = json.load(stream)
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise BundleError(f"{join(uri, MANIFEST)} is not JSON ({error}). Remove it and run the stage that writes it again.") from None
        return cls(canonical(uri), manifest)

    @classmethod
    def open(cls, uri: str) -> Bundle:
        """The bundle at `uri`. Raises BundleError when it was never finished."""
        bundle = cls.find(uri)
        if bundle is None:
            raise BundleError(f"no finished bundle at {uri} (it has no {MANIFEST}). Run the stage that writes it first.")
        return bundle

    @property
    def data_uri(self) -> str:
        """Folder of the attempt that finished."""
        return below(self.uri, self.manifest["attempt"], "attempt")

    @property
    def figures(self) -> Mapping[str, float]:
        """Quality figures that the stage reported."""
        return self.manifest["figures"]

    @property
    def facts(self) -> Mapping[str, Any]:
        """Sizes and settings that later stages need: num_items, dimensions and the like."""
        return self.manifest["facts"]

    def has(self, name: str) -> bool:
        """Whether the bundle holds a table of this name."""
        return name in self.manifest["tables"]

    def table(self, name: str) -> Table:
        """One table. Raises BundleError when the stage wrote no such table, or a file of it would lie outside the bundle."""
        if not self.has(name):
            raise BundleError(f"{self.uri} has no table {name!r}; it has {sorted(self.manifest['tables'])}")
        entry = self.manifest["tables"][name]
        files = [DataFile(**file) for file in entry["files"]]
        table = Table(below(self.data_uri, name, "table"), entry["schema"], files)
        all_below(table.uri, [file.name for file in files], within=self.uri)
        return table

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """A file or folder of the bundle as a local path (a temporary copy when the bundle is remote)."""
        filesystem, path = fsspec.core.url_to_fs(below(self.data_uri, name, "file"))
        if not filesystem.exists(path):
            raise BundleError(f"{self.uri} has no file {name!r}")
        if is_local(filesystem):
            yield Path(path)
            return
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / name
            filesystem.get(path, str(target), recursive=filesystem.isdir(path))
            yield target


@dataclass
class BundleWriter:
    """Writes one attempt at a bundle; `finish` makes it a result."""

    uri: str
    stage: str
    fingerprint: str
    attempt: str = field(default_factory=lambda: f"attempt-{uuid.uuid4().hex[:12]}")
    tables: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.time)

    @property
    def data_uri(self) -> str:
        """Folder of this attempt."""
        return join(self.uri, self.attempt)

    @property
    def scratch_uri(self) -> str:
        """A place that outlives a killed attempt: checkpoints to resume from. Never part of the bundle."""
        return join(self.uri, "scratch")

    def write(self, name: str, frame: DataFrame, *, max_records_per_file: int = 0) -> Table:
        """Write a Spark DataFrame as table `name`; 0 records per file means no bound. Returns the table as written."""
        write_parquet(frame, join(self.data_uri, name), max_records_per_file=max_records_per_file)
        return self.adopt(name)

    def kept_uri(self, name: str) -> str:
        """Where rows may lie for the length of the stage: whatever is there goes when the bundle is finished."""
        return join(self.data_uri, _KEPT, name)

    def keep(self, name: str, frame: DataFrame, spark: SparkSession) -> DataFrame:
        """Rows written aside for the length of the stage and read back: unlike what executors cache, they outlive any of them."""
        uri = self.kept_uri(name)
        write_parquet(frame, uri, overwrite=True)
        return read_parquet(spark, uri)

    def write_arrow(self, name: str, table: pa.Table) -> Table:
        """Write an in-memory table of bounded size as table `name`."""
        import pyarrow.parquet as pq

        uri = join(self.data_uri, name)
        filesystem, path = fsspec.core.url_to_fs(uri)
        filesystem.makedirs(path, exist_ok=True)
        with filesystem.open(f"{path}/part-00000.parquet", "wb") as stream:
            pq.write_table(table, stream, compression="zstd")
        return self.adopt(name)

    def adopt(self, name: str) -> Table:
        """Enter Parquet files that lie under `name` in this attempt into the manifest, with rows from their footers."""
        import pyarrow.parquet as pq

        uri = join(self.data_uri, name)
        filesystem, path = fsspec.core.url_to_fs(uri)
        paths = parquet_files(uri)

        def footer(found: str) -> tuple[DataFile, str]:
            with filesystem.open(found, "rb") as stream:
                parsed = pq.ParquetFile(stream)
                return DataFile(found[len(path) :].lstrip("/"), parsed.metadata.num_rows, filesystem.size(found)), str(
                    parsed.schema_arrow.remove_metadata()
                )

        with ThreadPoolExecutor(16) as pool:
            read = list(pool.map(footer, paths))
        table = Table(uri, read[0][1] if read else "", [file for file, _ in read])
        self.tables[name] = {"schema": table.schema, "rows": table.rows, "files": [asdict(file) for file in table.files]}
        return table

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """A local path to write a file or folder to; it becomes `name` of the bundle when the block ends well."""
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            yield target
            filesystem, path = fsspec.core.url_to_fs(join(self.data_uri, name))
            filesystem.makedirs(posixpath.dirname(path), exist_ok=True)
            if is_local(filesystem):
                shutil.move(str(target), path)
            else:
                filesystem.put(str(target), path, recursive=target.is_dir())

    def report(self, figures: Mapping[str, float]) -> None:
        """Quality figures: kept in the manifest, logged to MLflow as metrics."""
        self.figures.update({name: float(value) for name, value in figures.items()})

    def state(self, facts: Mapping[str, Any]) -> None:
        """Facts that later stages need: sizes, dimensions, names. JSON values only."""
        self.facts.update(facts)

    def finish(self, *, code_version: int, config: Mapping[str, Any], inputs: Mapping[str, str]) -> Bundle:
        """Write the manifest, last, and return the finished bundle."""
        filesystem, kept = fsspec.core.url_to_fs(join(self.data_uri, _KEPT))
        if filesystem.exists(kept):
            filesystem.rm(kept, recursive=True)
        manifest = {
            "stage": self.stage,
            "fingerprint": self.fingerprint,
            "attempt": self.attempt,
            "code_version": code_version,
            "package_version": __version__,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": round(time.time() - self.started, 3),
            "config": redact_values(config),
            "inputs": redact_values(inputs, by_value=False),
            "tables": self.tables,
            "figures": self.figures,
            "facts": redact_values(self.facts),
        }
        write_text(join(self.uri, MANIFEST), json.dumps(manifest, indent=1, sort_keys=True))
        return Bundle.open(self.uri)


def digest(value: Any) -> str:
    """Short stable hash of a JSON value: 16 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
