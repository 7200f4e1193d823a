"""A configuration reads from stores of files alone, and below the roots that it or the operator of the machine names."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from esans.bundle import Bundle
from esans.config import is_marked
from esans.errors import BundleError, ConfigError
from esans.features.pictures import Limits, Refused, read
from esans.roots import VARIABLE, Place, PlaceOrName, places, refusal
from esans.settings import Settings, Source

ROOT = Path(__file__).resolve().parents[1]


def load(*overrides: str) -> Settings:
    return Source((str(ROOT / "conf" / "cluster.yaml"),), overrides).load()


def test_every_place_of_a_configuration_is_known() -> None:
    settings = load("--prepare.items.extra.x.path=/a", "--prepare.interactions.options.path=/b", "--features.previous=s3://bucket/f")
    assert {key for key, _ in places(settings)} == {
        "work_dir",
        "prepare.items.path",
        "prepare.items.extra.x.path",
        "prepare.interactions.path",
        "prepare.interactions.options.path",
        "features.previous",
    }


@pytest.mark.parametrize(
    ("key", "place", "name"),
    [
        ("recommend.users", "/elsewhere/users.csv", None),
        ("logging.metrics_file", "/elsewhere/esans.prom", None),
        ("cluster.quality.model", "/elsewhere/train", "models:/retrieval/3"),
        ("features.text.model", "/elsewhere/model", "owner/model"),
        ("features.image.architecture", "./../elsewhere/tower.json", "ViT-B-32"),
        ("prepare.items.table", "s3://elsewhere/table", "catalogue.shop.items"),
    ],
)
def test_a_key_that_takes_a_path_is_held_to_the_roots_and_the_name_of_something_is_not(key: str, place: str, name: str | None) -> None:
    over = ["--allowed_roots=[/mnt/esans]"]
    if key == "prepare.items.table":
        over += ["--prepare.items.path=null", "--prepare.items.snapshot=v1"]
    with pytest.raises(ConfigError, match="lies outside allowed_roots") as refused:
        load(*over, f"--{key}={place}")
    assert str(refused.value).startswith(f"{key} = ")
    if name is not None:
        load(*over, f"--{key}={name}")


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("https://host/items.parquet", "is no store of files"),
        ("zip://x::s3://bucket/y.zip", "is no store of files"),
        ("simplecache::https://host/x", "is no store of files"),
        ("s3://key:secret12@bucket/x", "holds a password"),
        ("s3://bucket/runs/../../other", "climbs with '..'"),
        ("s3://bucket/items", None),
        ("hdfs:///items", None),
        ("../shared/items.parquet", None),
    ],
)
def test_without_roots_every_store_of_files_is_read_and_nothing_else(uri: str, problem: str | None) -> None:
    found = refusal(uri, [])
    assert found is None if problem is None else found is not None and problem in found


def test_a_place_outside_the_roots_is_refused_before_anything_starts_and_named() -> None:
    with pytest.raises(ConfigError) as refused:
        load("--allowed_roots=[/mnt/esans/raw]", "--cluster.previous=/mnt/other/cluster", "--prepare.interactions.path=s3://elsewhere/x")
    assert [line.split(":")[0] for line in str(refused.value).splitlines()] == [
        "prepare.interactions.path = 's3",
        "cluster.previous = '/mnt/other/cluster'",
    ]
    assert "lies outside allowed_roots (/mnt/esans/raw, /mnt/esans/work)" in str(refused.value)
    load("--allowed_roots=[/mnt/esans]")


def test_no_configuration_widens_the_roots_of_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "/mnt/esans, s3://bucket")
    load("--features.previous=s3://bucket/features/1")
    with pytest.raises(ConfigError, match=f"lies outside {VARIABLE}"):
        load("--allowed_roots=[/]", "--work_dir=/elsewhere")
    with pytest.raises(ConfigError, match=f"lies outside {VARIABLE}"):
        load("--prepare.items.path=s3://bucket-of-another/items")


def test_no_manifest_and_no_tag_leads_to_a_bundle_outside_the_roots_of_the_operator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "work"))
    assert Bundle.find(str(tmp_path / "work" / "prepare" / "1")) is None
    with pytest.raises(BundleError, match=f"lies outside {VARIABLE}"):
        Bundle.find(str(tmp_path / "other" / "prepare" / "1"))
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(BundleError, match="is no store of files"):
        Bundle.find("https://host/prepare/1")


def test_a_model_of_the_registry_is_no_place() -> None:
    assert "train.warm_start" not in dict(places(load("--train.warm_start=models:/retrieval/3", "--allowed_roots=[/mnt/esans]")))
    with pytest.raises(ConfigError, match="train.warm_start = '/elsewhere/train'"):
        load("--train.warm_start=/elsewhere/train", "--allowed_roots=[/mnt/esans]")


def test_neither_dots_nor_links_lead_out_of_a_root(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to(outside)
    assert refusal(str(inside / "a" / "b"), [str(inside)]) is None
    assert refusal(f"file://{inside}/a", [str(inside)]) is None
    for escape in (inside / "link" / "x", inside / ".." / "out", tmp_path / "in-other"):
        assert refusal(str(escape), [str(inside)]) is not None


def test_a_picture_outside_the_roots_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"a")
    (tmp_path / "b.png").write_bytes(b"b")
    limits = Limits(100, 100, (str(tmp_path / "in"),))
    assert read(str(tmp_path / "in" / "a.png"), limits) == b"a"
    with pytest.raises(Refused, match="lies outside allowed_roots"):
        read(str(tmp_path / "b.png"), limits)
    assert read(str(tmp_path / "b.png"), Limits(100, 100)) == b"b"


# What a text that says where something is may be called. A new such key is marked, or stands below.
PLACES = (Place, PlaceOrName)
LIKE_A_PLACE = re.compile(r"(^|_)(path|file|folder|dir|uri|checkpoint|previous|model|table|users|from|start)$")


def test_no_key_that_is_called_like_a_place_goes_unmarked() -> None:
    unmarked = {
        key for key, cls, name in _texts(Settings) if LIKE_A_PLACE.search(name) and not any(is_marked(cls, name, kind) for kind in PLACES)
    }
    # A server or its database, a name of the registry, and dates.
    assert unmarked == {"tracking.uri", "recommend.model", "prepare.split.validation_from", "prepare.split.test_from"}


def _texts(cls: Any, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """(key, class, field) of every text of a configuration."""
    for name, info in cls.__pydantic_fields__.items():
        if dataclasses.is_dataclass(info.annotation):
            yield from _texts(info.annotation, f"{prefix}{name}.")
        elif "str" in str(info.annotation):
            yield f"{prefix}{name}", cls, name
