"""The search for canaries finds them where they could hide."""

from __future__ import annotations

import base64
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.canaries import search

CANARY = "canary0123456789abcdef"


@pytest.mark.parametrize("shift", range(3))
def test_a_canary_is_found_in_text_in_base64_in_tables_in_archives_and_in_names(tmp_path: Path, shift: int) -> None:
    (tmp_path / "text").write_bytes(b"\x00before" + CANARY.encode() + b"after")
    (tmp_path / "login").write_bytes(b"Basic " + base64.b64encode(b"u" * (shift + 1) + b":" + CANARY.encode() + b"x" * shift))
    pq.write_table(pa.table({"x": [{"a": ["y", CANARY]}]}), tmp_path / "table.parquet", compression="zstd")
    with zipfile.ZipFile(tmp_path / "archive.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside", "a" * 1000 + CANARY)
    (tmp_path / CANARY).touch()
    (tmp_path / "clean").write_text("canary")
    found = search(tmp_path, {"mine": CANARY, "other": "canaryffffffffff"})
    assert {path.name for path, _ in found} == {"text", "login", "table.parquet", "archive.pt", CANARY}
    assert {name for _, name in found} == {"mine"}
