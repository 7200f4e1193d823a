"""The report holds every method and picture, and nothing from outside itself."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pyarrow as pa
import pytest
from rich.console import Console

from esans.bundle import Bundle, BundleWriter
from esans.evaluate.report import Comparison, MethodResult, terminal_table, write_report

METRICS = {"recall@10": 0.1, "recall@50": 0.3, "recall@200": 0.5, "ndcg@50": 0.2, "mrr": 0.15, "hit_rate@50": 0.4, "novelty@50": 9.5}


def metrics(out: BundleWriter, methods: dict[str, float]) -> None:
    rows = []
    for method, factor in methods.items():
        for place, (name, label) in enumerate(
            [("all", "all"), ("popularity", "1-4"), ("popularity", "5-9"), ("history", "0-4"), ("history", "5+")]
        ):
            for metric, value in METRICS.items():
                row = {"method": method, "split": "test", "slice": name, "place": place, "label": label, "metric": metric}
                row |= {"low": 0.1234 if metric == "recall@50" else float("nan"), "high": 0.5678}
                rows.append({**row, "value": value * factor, "standard_error": 0.01 if place else float("nan"), "users": 12, "targets": 30})
    out.write_arrow("metrics", pa.Table.from_pylist(rows))


def bundle(folder, stage: str, fill, inputs: dict[str, str] | None = None) -> Bundle:
    out = BundleWriter(str(folder / stage), stage, f"fp-{folder.name}-{stage}")
    fill(out)
    return out.finish(code_version=1, config={"key": "<value>"}, inputs=inputs or {})


@pytest.fixture
def comparison(tmp_path) -> Comparison:
    prepare = bundle(
        tmp_path,
        "prepare",
        lambda out: out.state({"num_items": 1234, "num_users": 56, "num_train": 7890, "split": {"rule": "Last & first."}}),
    )

    def train(out: BundleWriter) -> None:
        out.write_arrow("epochs", pa.table({"epoch": [0, 1], "loss": [2.0, 1.5], "recall_at_50": [0.1, 0.2]}))
        out.report({"examples_per_second": 12345.6, "train_seconds": 61.4})

    def references(out: BundleWriter) -> None:
        metrics(out, {"popularity": 0.5, "itemknn": 1.5})
        out.state({"item_knn": "jaccard, 5 neighbours of the candidate"})

    inputs = {"prepare": prepare.uri}
    results = [
        MethodResult(
            name,
            bundle(tmp_path / name, "evaluate", lambda out: metrics(out, {"any": 1.0}), inputs),
            bundle(tmp_path / name, "train", train),
        )
        for name in ("uniform", "esans")
    ]
    cluster = bundle(tmp_path, "cluster", lambda out: out.write_arrow("primaries", pa.table({"c1": [0, 1], "count": [30, 20]})) and None)
    return Comparison.read(results, bundle(tmp_path, "references", references, inputs), cluster)


def test_the_page_holds_every_method_picture_and_bundle_and_no_outside_address(tmp_path, comparison):
    path = write_report(
        str(tmp_path / "report.html"), comparison.results, comparison.references, comparison.cluster, title="Methods <compared>"
    )
    page = (tmp_path / "report.html").read_text()
    assert path == str(tmp_path / "report.html")
    for text in (
        "popularity",
        "item-kNN",
        "uniform",
        "esans",
        "jaccard, 5 neighbours of the candidate",
        "1,234 items",
        "Last &amp; first.",
        "12,346",
        "0.1234 to 0.5678",
        "<th>Hit rate@50</th><th>Novelty@50</th>",
    ):
        assert text in page
    assert page.count("<svg") == 6 == page.count("</svg>")
    for fingerprint in ("uniform-evaluate", "esans-train", "-references", "-cluster", "-prepare"):
        assert fingerprint in page
    assert "Methods &lt;compared&gt;" in page
    assert "&lt;value&gt;" in page
    assert not re.search(r"https?:|//[a-z]+\.|<script|<link|<img|@import", page)
    assert "prefers-color-scheme: dark" in page
    assert "currentColor" in page


def test_pictures_are_well_formed(comparison):
    from esans.evaluate.pictures import pictures

    drawn = pictures(comparison)
    assert list(drawn) == [
        "recall@50 by method",
        "recall@50 by train count of the target",
        "recall@50 by distinct earlier items of the user",
        "Training loss (methods sum different terms) by epoch",
        "Validation recall@50 by epoch",
        "Items in each primary cluster",
    ]
    for svg in drawn.values():
        ElementTree.fromstring(svg.replace("xlink:href", "href"))


def test_the_terminal_table_has_the_columns_of_the_quickstart(comparison):
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(terminal_table(comparison))
    text = console.export_text()
    for column in ("Recall@10", "Recall@50", "Recall@200", "NDCG@50", "MRR", "examples/s", "seconds"):
        assert column in text
    lines = [line for line in text.splitlines() if "item-kNN" in line]
    assert "0.4500" in lines[0]
    assert [row.name for row in comparison.rows] == ["popularity", "item-kNN", "uniform", "esans"]
    assert comparison.rows[2].as_dict()["recall@50"] == pytest.approx(0.3)
    assert comparison.rows[2].as_dict()["intervals"] == {"recall@50": [0.1234, 0.5678]}


def test_the_narrow_table_fits_into_eighty_columns(comparison):
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(terminal_table(comparison, errors=False))
    text = console.export_text()
    assert "…" not in text
    for shown in ("item-kNN", "12,346", "0.4500", "Recall@200", "seconds", "±"):
        assert shown in text


def test_a_report_without_references_training_or_clusters_still_stands(tmp_path):
    alone = bundle(tmp_path / "m", "evaluate", lambda out: metrics(out, {"any": 1.0}))
    write_report(str(tmp_path / "r.html"), [MethodResult("m", alone)], None)
    assert (tmp_path / "r.html").read_text().count("<svg") == 3
