"""A stage with its raw tables and its bundle on a real S3 server; benchmarks/s3_chain.py runs the whole chain so."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest

from benchmarks.local_s3 import local_s3
from esans.bundle import Bundle
from esans.flow import Plan
from esans.petastorm_reader import read_files
from esans.settings import Source
from tests.integration.processes import run_job, succeeded


@pytest.mark.timeout(600)
def test_prepare_reads_and_writes_buckets_and_petastorm_and_arrow_read_what_spark_wrote(
    retail_slice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with local_s3(tmp_path / "server") as store:
        for name in (name for name in os.environ if name.startswith("AWS_")):
            monkeypatch.delenv(name)
        for name, value in store.env.items():
            monkeypatch.setenv(name, value)
        files, _ = fsspec.core.url_to_fs("s3://esans")
        for table in ("items", "interactions"):
            files.put_file(str(retail_slice.parent / f"{table}.parquet"), f"esans/raw/{table}.parquet")
        places = [f"--prepare.{table}.path=s3a://esans/raw/{table}.parquet" for table in ("items", "interactions")]
        overrides = ["--work_dir=s3a://esans/work", *places]
        tracking = f"--tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}"
        succeeded(run_job("prepare", "--config", str(retail_slice), *overrides, tracking, env=store.env, cwd=tmp_path))
        planned = Plan(Source((str(retail_slice),), tuple(overrides)).load()).stage("prepare")
        assert planned.uri.startswith("s3://esans/work/prepare/")
        table = Bundle.open(planned.uri).table("interactions")
        assert 0 < table.rows <= pq.read_metadata(retail_slice.parent / "interactions.parquet").num_rows
        assert table.arrow(["user_idx"]).num_rows == table.rows
        assert sum(len(part["user_idx"]) for part in read_files(table.file_uris, ["user_idx", "item_idx"]) if part) == table.rows
    assert not list(tmp_path.rglob("*.parquet"))
