"""No secret is in anything that the chain writes, says or sends."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.canaries import run, search


@pytest.mark.timeout(900)
def test_no_canary_is_in_any_byte_that_the_chain_wrote_printed_or_sent(tmp_path: Path, empty_store: Path) -> None:
    canaries, _ = run(tmp_path / "canaries", empty_store)
    searched = tmp_path / "canaries" / "searched"
    # What is searched is there: bundles, the server's database, event logs, outputs.
    assert list(searched.glob("work/export/*/manifest.json"))
    assert (searched / "mlflow" / "mlflow.db").stat().st_size > 100_000
    assert list(searched.glob("events/*"))
    assert "***" in (searched / "wrong-type.stderr").read_text()
    assert search(searched, canaries) == []
