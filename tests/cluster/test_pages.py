from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest

from esans.cluster.browse import Selection, select
from esans.cluster.captions import Caption, captions, category_shares, thumbnail
from esans.cluster.config_quality import QualityConfig
from esans.cluster.false_negatives import expected_counts
from esans.cluster.hardness import CosineJudge, Held, draw_easy, draw_hard, fallback_of, measure
from esans.cluster.page import clusters_page, quality_page
from esans.cluster.pictures import CurvePoint, curve_figure, hardness_figure, plot_style, svg
from esans.cluster.tables import Cells, distances, fallbacks, transitions
from esans.config import build
from tests.features.helpers import write_bundle

NASTY = "</script><script>alert(1)</script> & 'quotes' \"double\" <img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def world() -> tuple[Held, Cells, np.ndarray, np.ndarray]:
    """Six primaries around points on a circle, with cells of many sizes; one primary has a single cell."""
    random = np.random.default_rng(0)
    c1 = np.repeat(np.arange(6), [30, 40, 50, 60, 70, 25])
    c2 = np.where(c1 == 5, 0, random.integers(0, 4, len(c1)))
    order = np.lexsort((c2, c1))
    c1, c2 = c1[order], c2[order]
    angle = c1 + 0.1 * random.standard_normal(len(c1))
    unit = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    keys, count = np.unique(c1 * 4 + c2, return_counts=True)
    cells = Cells((keys // 4).astype(np.int32), (keys % 4).astype(np.int32), count.astype(np.int64), 6)
    apart = distances(np.stack([np.cos(np.arange(6)), np.sin(np.arange(6))], 1))
    return Held(random.permutation(len(c1)), c1, c2, unit, 6, 4), cells, apart, fallbacks(cells, apart, 5)


def expected_at(apart: np.ndarray, temperature: float):
    return lambda c1: expected_counts(transitions(apart[c1], temperature), 2)


def test_draws_come_from_where_the_samplers_take_them(world):
    held, cells, apart, fallback = world
    rows, random = np.arange(len(held)), np.random.default_rng(1)
    easy = draw_easy(held, held.c1, expected_at(apart, 0.3), 40, random)
    assert (held.c1[easy] != held.c1[rows][:, None]).all()
    own = fallback_of(cells, fallback, held.c1, held.c2)
    assert (own[held.c1 == 5] >= 0).all()
    assert (own[held.c1 != 5] == -1).all()
    hard = draw_hard(held, held.c1, held.c2, own, 40, random)
    same = held.c1[hard] == held.c1[rows][:, None]
    assert (same | (held.c1[hard] == own[:, None])).all()
    assert (~same | (held.c2[hard] != held.c2[rows][:, None])).all()
    assert not same[held.c1 == 5].any()


def test_easy_draws_follow_the_expected_counts_and_hard_ones_are_uniform_in_their_pool(world):
    held, cells, apart, fallback = world
    one = np.full(20_000, np.flatnonzero(held.c1 == 2)[0])
    random, wanted = np.random.default_rng(2), expected_at(apart, 0.5)(np.array([2]))[0] / 2
    drawn = draw_easy(held, held.c1[one], expected_at(apart, 0.5), 1, random)[:, 0]
    np.testing.assert_allclose(np.bincount(held.c1[drawn], minlength=6) / len(one), wanted, atol=0.015)
    c1, c2 = held.c1[one], held.c2[one]
    hard = draw_hard(held, c1, c2, fallback_of(cells, fallback, c1, c2), 1, random)[:, 0]
    pool = np.flatnonzero((held.c1 == 2) & (held.c2 != c2[0]))
    assert set(hard) == set(pool)
    np.testing.assert_allclose(np.bincount(hard)[pool] / len(one), 1 / len(pool), atol=0.01)


def test_hard_draws_are_harder_than_easy_ones_and_those_than_uniform_ones_more_so_where_t_c_is_small(world):
    held, cells, apart, fallback = world
    random = np.random.default_rng(3)
    judge = CosineJudge.sample(held, np.ones(len(held)), 400, random)
    own = fallback_of(cells, fallback, judge.c1, judge.c2)
    drawn = measure(judge, held, own, {level: expected_at(apart, level) for level in (0.1, 0.5, 5.0)}, 0.1, 10, random)
    found = drawn.figures()
    assert found["hardness.hard.p50"] > found["hardness.easy.p50"] > found["hardness.uniform.p50"]
    assert drawn.curve[0.1] > drawn.curve[0.5] > drawn.curve[5.0]
    assert {f"hardness.easy.p{level}" for level in (1, 10, 25, 50, 75, 90, 99)} <= set(found)
    again = CosineJudge.sample(held, np.ones(len(held)), 400, np.random.default_rng(3))
    np.testing.assert_array_equal(again.anchors, judge.anchors)


def chosen(world) -> Selection:
    held, cells, apart, fallback = world
    config = build(QualityConfig, {"page_primaries": 4, "page_items": 3, "page_negatives": 5, "page_nearest": 2})
    return select(held, cells, fallback, apart, lambda c1: transitions(apart[c1], 0.1), expected_at(apart, 0.1), config, 0)


class Reader(HTMLParser):
    """Tags and attributes of a page, and the text of its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and self.scripts and not self.scripts[-1]:
            self.scripts[-1] = data


def test_the_page_shows_a_spread_of_sizes_items_neighbours_and_negatives_of_every_item(world):
    held, shown = world[0], chosen(world)
    sizes = [primary.size for primary in shown.primaries]
    assert len({primary.c1 for primary in shown.primaries}) == 4
    assert sizes == sorted(sizes, reverse=True)
    assert shown.items.keys() == {item for primary in shown.primaries for item in primary.items}
    c1 = dict(zip(held.item.tolist(), held.c1.tolist(), strict=True))
    for item, drawn in shown.items.items():
        assert len(drawn.easy) == 5
        assert all(c1[other] != drawn.c1 for other, _ in drawn.easy)
        assert [cosine for _, cosine in drawn.hard] == sorted((cosine for _, cosine in drawn.hard), reverse=True)
        assert item not in {other for other, _ in [*drawn.easy, *drawn.hard]}
    assert all(sum(count for _, count in primary.cells) == primary.size for primary in shown.primaries)
    assert all(near.probability > 0 for primary in shown.primaries for near in primary.nearest)
    assert chosen(world) == shown


def test_titles_that_look_like_html_stay_text_and_the_page_needs_nothing_from_outside(world):
    shown = chosen(world)
    names = {item: Caption(f"id{item}", f"{NASTY} {item}", "a<b>", "data:image/jpeg;base64,AAAA") for item in shown.every}
    page = clusters_page(shown, names, {primary.c1: [("<i>kind", 0.5)] for primary in shown.primaries}, 0.1, "about <b>")
    found = Reader(page)
    tags = [tag for tag, _ in found.tags]
    assert tags.count("script") == 2
    assert "onerror" not in {name for _, attributes in found.tags for name in attributes}
    assert all(attributes["src"].startswith("data:image/jpeg") for tag, attributes in found.tags if tag == "img")
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(", page)
    data = json.loads(found.scripts[0])
    assert data["items"][str(shown.every[0])]["title"] == f"{NASTY} {shown.every[0]}"
    assert set(data["negatives"]) == {str(item) for item in shown.items}
    every = {str(other) for drawn in data["negatives"].values() for pairs in drawn.values() for other, _ in pairs}
    assert every <= set(data["items"])
    assert tags.count("article") == 4
    assert tags.count("button") == len(shown.items)
    assert "prefers-color-scheme: dark" in page
    assert "innerHTML" not in page


def test_the_page_of_plots_holds_every_plot_the_curve_and_what_the_gate_says(world):
    held, cells, apart, fallback = world
    random = np.random.default_rng(0)
    judge = CosineJudge.sample(held, np.zeros(len(held)), 100, random)
    own = fallback_of(cells, fallback, judge.c1, judge.c2)
    drawn = measure(judge, held, own, {0.1: expected_at(apart, 0.1)}, 0.1, 2, random)
    curve = [CurvePoint(0.1, 1.5, drawn.curve[0.1], 3.0)]
    with plot_style():
        plots = {"price": svg(curve_figure(curve, {"uniform": (0.0, 1.0)}, "cosine")), "hard": svg(hardness_figure(drawn))}
    page = quality_page({"gini": 0.25, "hardness.easy.p50": 0.5, "odd": 1.0}, plots, curve, ["a <note>"], ["  gini is < bad"])
    assert page.count("<svg") == 2
    assert "currentColor" in page
    assert "a &lt;note&gt;" in page
    assert "gini is &lt; bad" in page
    assert "<th>0.1</th><td>1.50</td>" in page
    assert "<th>odd</th>" in page
    assert not re.search(r"https?://|<img|<script", page)


def picture(color: str, size: tuple[int, int] = (200, 100)) -> bytes:
    image = pytest.importorskip("PIL.Image", reason="Pillow comes with the extra `encoders`")
    stream = io.BytesIO()
    image.new("RGB", size, color).save(stream, "PNG")
    return stream.getvalue()


def test_thumbnails_are_small_jpegs_and_what_cannot_be_read_has_none(tmp_path):
    from PIL import Image

    (tmp_path / "red.png").write_bytes(picture("red"))
    for source in (picture("red"), f"file://{tmp_path}/red.png"):
        small = Image.open(io.BytesIO(thumbnail(source, 56) or b""))
        assert (small.format, small.size) == ("JPEG", (56, 28))
    assert [thumbnail(source, 56) for source in (None, b"", b"no picture", f"file://{tmp_path}/absent.png")] == [None] * 4


def test_captions_come_from_titles_texts_or_ids_with_categories_and_pictures(spark, tmp_path):
    items = pa.table(
        {
            "item_idx": pa.array([0, 1, 2, 3], pa.int64()),
            "item_id": ["a", "b", "c", "d"],
            "title": ["Lamp", " ", None, "Chair"],
            "text": ["x", "words " * 60, None, None],
            "side_kind": ["light", "other", None, "light"],
        }
    )
    images = pa.table({"item_idx": pa.array([0, 1], pa.int64()), "image": pa.array([picture("blue"), b"broken"], pa.binary())})
    prepare = write_bundle(tmp_path, "prepare", {"items": items, "images": images}, {})
    found = captions(spark, prepare, [0, 1, 2], "side_kind", 40)
    assert set(found) == {0, 1, 2}
    assert (found[0].title, found[0].item_id, found[0].category) == ("Lamp", "a", "light")
    assert found[1].title == ("words " * 60)[:120]
    assert found[2].title == "c"
    assert [found[item].image is None for item in (0, 1, 2)] == [False, True, True]
    assert base64.b64decode((found[0].image or "").removeprefix("data:image/jpeg;base64,"))[:2] == b"\xff\xd8"
    codes = spark.createDataFrame(pa.table({"item_idx": pa.array([0, 1, 2, 3], pa.int64()), "c1": pa.array([0, 0, 0, 1], pa.int32())}))
    assert category_shares(codes, prepare, "side_kind", [0]) == {0: [("light", 0.5), ("other", 0.5)]}
