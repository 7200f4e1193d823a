"""Bundles: no manifest, no bundle; attempts that don't meet; tables read back as written."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esans.bundle import Bundle, BundleWriter, digest
from esans.errors import BundleError
from esans.table import Table
from esans.uri import canonical, join, write_text

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.fixture(params=["file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A URI to write bundles to: a local folder, and a store that is no local path."""
    return canonical(str(tmp_path) if request.param == "file" else f"memory://{uuid.uuid4().hex}")


def writer(place: str) -> BundleWriter:
    return BundleWriter(join(place, "prepare", "f00d"), "prepare", "f00d")


def finish(out: BundleWriter) -> Bundle:
    return out.finish(code_version=1, config={"a": 1}, inputs={})


def test_there_is_no_bundle_until_it_is_finished(place: str) -> None:
    out = writer(place)
    out.write_arrow("items", pa.table({"item_idx": [0, 1]}))
    assert Bundle.find(out.uri) is None
    with pytest.raises(BundleError) as refused:
        Bundle.open(out.uri)
    assert str(refused.value) == f"no finished bundle at {out.uri} (it has no manifest.json). Run the stage that writes it first."
    finish(out)
    assert Bundle.open(out.uri).table("items").rows == 2


def test_the_manifest_lists_schema_rows_figures_facts_and_where_it_came_from(place: str) -> None:
    out = writer(place)
    out.write_arrow("items", pa.table({"item_idx": pa.array([0, 1, 2], pa.int64())}))
    out.report({"share": 0.5})
    out.state({"num_items": 3})
    bundle = out.finish(code_version=7, config={"split": "global"}, inputs={"previous": "file:///earlier"})
    manifest = bundle.manifest
    assert manifest["tables"]["items"]["rows"] == 3
    assert manifest["tables"]["items"]["schema"] == "item_idx: int64"
    assert (manifest["code_version"], manifest["config"], manifest["inputs"]) == (7, {"split": "global"}, {"previous": "file:///earlier"})
    assert (bundle.figures, bundle.facts) == ({"share": 0.5}, {"num_items": 3})
    assert manifest["seconds"] >= 0


def test_an_attempt_that_died_leaves_nothing_in_the_next_ones_result(place: str) -> None:
    died = writer(place)
    died.write_arrow("items", pa.table({"item_idx": [0, 1, 2]}))
    died.write_arrow("half", pa.table({"x": [1]}))
    out = writer(place)
    out.write_arrow("items", pa.table({"item_idx": [5]}))
    bundle = finish(out)
    assert bundle.data_uri == out.data_uri != died.data_uri
    assert bundle.table("items").arrow().to_pydict() == {"item_idx": [5]}
    assert not bundle.has("half")


def test_a_table_that_is_not_there_is_named_beside_those_that_are(place: str) -> None:
    out = writer(place)
    out.write_arrow("items", pa.table({"item_idx": [0]}))
    bundle = finish(out)
    with pytest.raises(BundleError) as refused:
        bundle.table("users")
    assert str(refused.value) == f"{bundle.uri} has no table 'users'; it has ['items']"


def test_files_and_folders_travel_with_the_bundle(place: str) -> None:
    out = writer(place)
    with out.local("model") as folder:
        folder.mkdir()
        (folder / "weights").write_bytes(b"123")
    with out.local("quality.json") as file:
        file.write_text("{}")
    bundle = finish(out)
    with bundle.local("model") as folder:
        assert (folder / "weights").read_bytes() == b"123"
    with bundle.local("quality.json") as file:
        assert file.read_text() == "{}"
    with pytest.raises(BundleError), bundle.local("absent"):
        pass


def test_a_file_whose_writing_failed_does_not_enter_the_bundle(place: str) -> None:
    out = writer(place)
    with pytest.raises(RuntimeError), out.local("model") as file:
        file.write_text("half")
        raise RuntimeError
    with pytest.raises(BundleError), finish(out).local("model"):
        pass


def test_a_small_file_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "manifest.json"
    write_text(str(target), "old")
    write_text(str(target), "new")
    assert target.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_relative_path_and_its_absolute_uri_are_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert canonical("work") == canonical(str(tmp_path / "work")) == canonical(f"file://{tmp_path / 'work'}/")


def test_batches_are_bounded_and_hold_every_row(place: str) -> None:
    out = writer(place)
    table = out.write_arrow("items", pa.table({"item_idx": list(range(1000))}))
    sizes = [len(batch) for batch in table.batches(["item_idx"], batch_size=64)]
    assert max(sizes) <= 64
    assert sum(sizes) == 1000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=6
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_a_digest_depends_on_the_content_and_not_on_the_order_of_keys(value: dict) -> None:
    assert digest(value) == digest(dict(reversed(value.items()))) == digest(json.loads(json.dumps(value)))
    assert digest(value) != digest({**value, "one more": 1})


# dense: the naive form is a loop.


@st.composite
def columns(draw: st.DrawFn, width: int | None) -> tuple[list[int], list, int]:
    """Distinct indices below a size, and a value (or null) for each."""
    size = draw(st.integers(1, 40))
    index = draw(st.lists(st.integers(0, size - 1), unique=True, max_size=size))
    number = st.floats(-1e6, 1e6, width=32)
    value = number if width is None else st.lists(number, min_size=width, max_size=width)
    return index, draw(st.lists(st.none() | value, min_size=len(index), max_size=len(index))), size


def written(make: Callable[[], Path], index: list[int], values: list, kind: pa.DataType, rows_per_file: int) -> Table:
    out = BundleWriter(canonical(str(make())), "s", "f")
    folder = Path(out.data_uri.removeprefix("file://")) / "t"
    folder.mkdir(parents=True)
    for start in range(0, max(len(index), 1), rows_per_file):
        part = slice(start, start + rows_per_file)
        piece = pa.table({"i": pa.array(index[part], pa.int64()), "v": pa.array(values[part], kind)})
        pq.write_table(piece, folder / f"part-{start:05d}.parquet")
    return out.adopt("t")


@pytest.mark.parametrize("width", [None, 1, 3])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(data=st.data(), rows_per_file=st.integers(1, 20), fill=st.sampled_from([0.0, -1.0]))
def test_dense_puts_each_value_at_its_index_and_the_fill_elsewhere(
    tmp_path_factory: pytest.TempPathFactory, width: int | None, data: st.DataObject, rows_per_file: int, fill: float
) -> None:
    index, values, size = data.draw(columns(width))
    kind = pa.float32() if width is None else pa.list_(pa.float32())
    table = written(lambda: tmp_path_factory.mktemp("dense"), index, values, kind, rows_per_file)
    got = table.dense("i", "v", size, fill=fill)
    known = {place: value for place, value in zip(index, values, strict=True) if value is not None}
    if not known and width is not None:
        assert got.shape[0] == size  # no row tells the width
        return
    empty = fill if width is None else [fill] * width
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, np.array([known.get(place, empty) for place in range(size)], np.float32))


@pytest.mark.parametrize("outside", [-1, 3])
def test_dense_refuses_an_index_outside_its_size(tmp_path: Path, outside: int) -> None:
    table = written(lambda: tmp_path, [0, outside], [1.0, 2.0], pa.float32(), 10)
    with pytest.raises(BundleError) as refused:
        table.dense("i", "v", 3)
    assert str(refused.value) == f"{table.uri}: column 'i' has values outside [0, 3)"


@pytest.mark.parametrize("rows_per_file", [1, 10])
def test_dense_refuses_lists_of_different_lengths(tmp_path: Path, rows_per_file: int) -> None:
    table = written(lambda: tmp_path, [0, 1], [[1.0], [1.0, 2.0]], pa.list_(pa.float32()), rows_per_file)
    with pytest.raises(BundleError) as refused:
        table.dense("i", "v", 3)
    assert str(refused.value) == f"{table.uri}: column 'v' has lists of different lengths"


def test_what_spark_writes_is_counted_and_an_empty_table_keeps_its_columns(tmp_path: Path, spark: SparkSession) -> None:
    out = writer(canonical(str(tmp_path)))
    assert out.write("items", spark.range(10), max_records_per_file=4).rows == 10
    assert max(file.rows for file in out.adopt("items").files) <= 4
    out.write("rejected", spark.createDataFrame([], "reason string"))
    bundle = finish(out)
    assert bundle.table("rejected").rows == 0
    assert bundle.table("rejected").arrow().column_names == ["reason"]
    assert bundle.table("items").spark(spark).count() == 10


@pytest.mark.parametrize(
    "name", ["../../outside", "/etc/passwd", "a/../../b", "file:///etc/passwd", "s3://bucket/x", "", "a//b", "a\\b", "./a"]
)
def test_no_name_in_a_manifest_leads_out_of_its_bundle(finished: Bundle, name: str) -> None:
    def with_(change: Callable[[dict[str, Any]], None]) -> Bundle:
        manifest = json.loads(json.dumps(finished.manifest))
        change(manifest)
        (Path(finished.uri.removeprefix("file://")) / "manifest.json").write_text(json.dumps(manifest))
        return Bundle.open(finished.uri)

    with pytest.raises(BundleError, match="leads out of its folder"):
        _ = with_(lambda manifest: manifest.update(attempt=name)).data_uri
    with pytest.raises(BundleError, match="leads out of its folder"):
        with_(lambda manifest: manifest["tables"].update({name: manifest["tables"]["rows"]})).table(name)
    with pytest.raises(BundleError, match="leads out of its folder"):
        with_(lambda manifest: manifest["tables"]["rows"]["files"][0].update(name=name)).table("rows")
    with pytest.raises(BundleError, match="leads out of its folder"), finished.local(name):
        pass


@pytest.mark.parametrize("what", ["attempt", "table", "file"])
def test_no_link_leads_out_of_a_bundle(finished: Bundle, tmp_path: Path, what: str) -> None:
    attempt = Path(finished.data_uri.removeprefix("file://"))
    place = {"attempt": attempt, "table": attempt / "rows", "file": attempt / "rows" / "part-00000.parquet"}[what]
    elsewhere = place.rename(tmp_path / "elsewhere")
    place.symlink_to(elsewhere)
    with pytest.raises(BundleError, match="is a symbolic link that leads out of"):
        Bundle.open(finished.uri).table("rows")


def test_a_link_to_the_work_folder_and_one_inside_the_bundle_are_fine(finished: Bundle, tmp_path: Path) -> None:
    attempt = Path(finished.data_uri.removeprefix("file://"))
    file = attempt / "rows" / "part-00000.parquet"
    file.symlink_to(file.rename(attempt / "moved.parquet"))
    (tmp_path / "linked").symlink_to(attempt.parent)
    assert Bundle.open(str(tmp_path / "linked")).table("rows").arrow().num_rows == 2


def test_a_manifest_that_is_cut_short_says_what_to_do(finished: Bundle) -> None:
    path = Path(finished.uri.removeprefix("file://")) / "manifest.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(BundleError, match="is not JSON .* Remove it and run the stage"):
        Bundle.find(finished.uri)


@pytest.fixture
def finished(tmp_path: Path) -> Bundle:
    """A bundle with one small table."""
    writer = BundleWriter(f"file://{tmp_path}/bundle", "toy", "f")
    writer.write_arrow("rows", pa.table({"x": [1, 2]}))
    return writer.finish(code_version=1, config={}, inputs={})
