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
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pyarrow as pa

from esans import __version__
from esans.errors import BundleError

if TYPE_CHECKING:
    import pyarrow.dataset as pads
    from pyspark.sql import DataFrame, SparkSession

MANIFEST = "manifest.json"


def canonical(uri: str) -> str:
    """An absolute URI with a scheme, so that Spark, Petastorm and fsspec all mean the same place."""
    filesystem, path = fsspec.core.url_to_fs(uri)
    return str(filesystem.unstrip_protocol(path)).rstrip("/")


def join(uri: str, *parts: str) -> str:
    """Append path parts to a URI."""
    return posixpath.join(uri.rstrip("/"), *parts)


@dataclass(frozen=True)
class DataFile:
    """One Parquet file of a table: its name below the table, its rows and bytes."""

    name: str
    rows: int
    bytes: int


@dataclass(frozen=True)
class Table:
    """A Parquet table of a finished bundle."""

    uri: str
    schema: str
    files: list[DataFile]

    @property
    def rows(self) -> int:
        """Rows of all files, from their footers."""
        return sum(file.rows for file in self.files)

    @property
    def file_uris(self) -> list[str]:
        """URIs of the data files, in name order."""
        return [join(self.uri, file.name) for file in self.files]

    def spark(self, spark: SparkSession) -> DataFrame:
        """The table as a Spark DataFrame."""
        return spark.read.parquet(self.uri)

    def dataset(self) -> pads.Dataset:
        """The table as a pyarrow dataset; iterate over its batches where the table grows with the data."""
        # Imported here: it brings pandas along, and configuration errors must not wait for that.
        import pyarrow.dataset as pads

        filesystem, _ = fsspec.core.url_to_fs(self.uri)
        paths = [filesystem._strip_protocol(uri) for uri in self.file_uris]
        return pads.dataset(paths, format="parquet", filesystem=filesystem)

    def arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The whole table in memory: for tables that do not grow with the data, or columns that a rank must hold."""
        return self.dataset().to_table(columns=list(columns) if columns else None)

    def batches(self, columns: Sequence[str] | None = None, batch_size: int = 65_536) -> Iterator[pa.RecordBatch]:
        """Record batches of at most `batch_size` rows, file by file; memory stays bounded."""
        yield from self.dataset().to_batches(columns=list(columns) if columns else None, batch_size=batch_size)

    def dense(self, index: str, column: str, size: int, dtype: Any = np.float32, fill: float = 0) -> np.ndarray:
        """A column as an array addressed by an index column: `result[index] = column`.

        Args:
            index: a long column with values in [0, size).
            column: a scalar column, or a list column whose rows have equal length; null rows keep `fill`.
            size: length of the result.

        Returns:
            (size,) or (size, d) array of `dtype`.

        Raises:
            BundleError: an index lies outside [0, size), or list lengths differ.
        """
        result: np.ndarray | None = None
        for batch in self.batches([index, column]):
            rows, values = batch.column(0), batch.column(1)
            if values.null_count:
                keep = values.is_valid()
                rows, values = rows.filter(keep), values.filter(keep)
            place = rows.to_numpy(zero_copy_only=False)
            if len(place) and (place.min() < 0 or place.max() >= size):
                raise BundleError(f"{self.uri}: column {index!r} has values outside [0, {size})")
            flat = _rectangular(values, self.uri, column)
            if result is None:
                result = np.full((size, *flat.shape[1:]), fill, dtype=dtype)
            if len(place):
                if flat.shape[1:] != result.shape[1:]:
                    if result.shape[1:] == (0,):
                        result = np.full((size, *flat.shape[1:]), fill, dtype=dtype)
                    else:
                        raise BundleError(f"{self.uri}: column {column!r} has lists of different lengths")
                result[place] = flat
        return result if result is not None else np.full((size,), fill, dtype=dtype)


def _rectangular(values: pa.Array, uri: str, column: str) -> np.ndarray:
    if not (pa.types.is_list(values.type) or pa.types.is_large_list(values.type)):
        return values.to_numpy(zero_copy_only=False)
    flat = values.flatten().to_numpy(zero_copy_only=False)
    if len(values) == 0:
        return flat.reshape(0, 0)
    lengths = values.value_lengths().to_numpy(zero_copy_only=False)
    if (lengths != lengths[0]).any():
        raise BundleError(f"{uri}: column {column!r} has lists of different lengths")
    return flat.reshape(len(values), int(lengths[0]))


@dataclass(frozen=True)
class Bundle:
    """A finished stage output, read by URI."""

    uri: str
    manifest: Mapping[str, Any]

    @classmethod
    def find(cls, uri: str) -> Bundle | None:
        """The bundle at `uri`, or None when it was never finished."""
        try:
            with fsspec.open(join(uri, MANIFEST), "r") as stream:
                return cls(canonical(uri), json.load(stream))
        except FileNotFoundError:
            return None

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
        return join(self.uri, self.manifest["attempt"])

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
        """One table. Raises BundleError when the stage wrote no such table."""
        if not self.has(name):
            raise BundleError(f"{self.uri} has no table {name!r}; it has {sorted(self.manifest['tables'])}")
        entry = self.manifest["tables"][name]
        files = [DataFile(**file) for file in entry["files"]]
        return Table(join(self.data_uri, name), entry["schema"], files)

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """A file or folder of the bundle as a local path (a temporary copy when the bundle is remote)."""
        filesystem, path = fsspec.core.url_to_fs(join(self.data_uri, name))
        if not filesystem.exists(path):
            raise BundleError(f"{self.uri} has no file {name!r}")
        if "file" in (filesystem.protocol if isinstance(filesystem.protocol, tuple) else (filesystem.protocol,)):
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
        uri = join(self.data_uri, name)
        frame.write.option("maxRecordsPerFile", max_records_per_file).mode("errorifexists").parquet(uri)
        return self.adopt(name)

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
        paths = sorted(found for found in filesystem.find(path) if found.endswith(".parquet"))

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
            if "file" in (filesystem.protocol if isinstance(filesystem.protocol, tuple) else (filesystem.protocol,)):
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
        manifest = {
            "stage": self.stage,
            "fingerprint": self.fingerprint,
            "attempt": self.attempt,
            "code_version": code_version,
            "package_version": __version__,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": round(time.time() - self.started, 3),
            "config": config,
            "inputs": dict(inputs),
            "tables": self.tables,
            "figures": self.figures,
            "facts": self.facts,
        }
        write_text(join(self.uri, MANIFEST), json.dumps(manifest, indent=1, sort_keys=True))
        return Bundle.open(self.uri)


def write_text(uri: str, text: str) -> None:
    """Write a small file so that a reader sees the old content or the new, never a part of it."""
    filesystem, path = fsspec.core.url_to_fs(uri)
    filesystem.makedirs(posixpath.dirname(path), exist_ok=True)
    if "file" in (filesystem.protocol if isinstance(filesystem.protocol, tuple) else (filesystem.protocol,)):
        part = f"{path}.{uuid.uuid4().hex}.part"
        Path(part).write_text(text, encoding="utf-8")
        Path(part).replace(path)
    else:
        filesystem.pipe_file(path, text.encode())


def digest(value: Any) -> str:
    """Short stable hash of a JSON value: 16 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
