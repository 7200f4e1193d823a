"""A corrupt file of an input bundle is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from esans.cli import _guarded
from esans.features.stage import Features
from tests.features.helpers import prepare, run_stage, shop


def test_a_corrupt_file_of_an_input_bundle_is_named_with_what_to_do(spark, tmp_path, capsys):
    bundle = prepare(tmp_path, *shop(12, 12))
    file = Path(bundle.table("interactions").file_uris[0].removeprefix("file://"))
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(SystemExit) as stopped:
        _guarded(lambda: run_stage(Features, tmp_path, {"prepare": bundle}, text={"encoder": "none"}))
    assert stopped.value.code == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: cannot read ")
    assert str(file) in shown.splitlines()[0]
    assert shown.strip().endswith("where it belongs to a bundle, remove that bundle's manifest.json and run its stage again.")
