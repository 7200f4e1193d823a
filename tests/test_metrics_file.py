"""The metrics file is what Prometheus reads, is replaced as a whole, and loses nothing that others wrote."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from esans.metrics_file import Sample, read, render, update

NAMES = st.from_regex(r"esans_[a-z_]{1,8}[a-z]", fullmatch=True)
TEXTS = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp")))
LABELS = st.dictionaries(st.from_regex(r"[a-z]{1,6}", fullmatch=True), TEXTS, max_size=3)
VALUES = st.floats(allow_nan=False, allow_infinity=False)


def parsed(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """As Prometheus' own parser reads it."""
    families = text_string_to_metric_families(text)
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for family in families for one in family.samples}


@settings(deadline=None)
@given(st.lists(st.builds(Sample, NAMES, VALUES, LABELS), max_size=8))
def test_prometheus_parser_reads_what_was_written_and_so_do_we(samples: list[Sample]) -> None:
    expected = {sample.key: sample.value for sample in samples}
    text = render({sample.key: sample for sample in samples}.values())
    assert parsed(text) == expected


@settings(deadline=None, max_examples=25)
@given(st.lists(st.builds(Sample, NAMES, VALUES, LABELS), max_size=5), st.lists(st.builds(Sample, NAMES, VALUES, LABELS), max_size=5))
def test_an_update_replaces_the_same_and_keeps_the_rest(
    tmp_path_factory: pytest.TempPathFactory, first: list[Sample], second: list[Sample]
) -> None:
    path = tmp_path_factory.mktemp("metrics") / "esans.prom"
    update(path, first)
    update(path, second)
    expected = {sample.key: sample.value for sample in [*first, *second]}
    assert {sample.key: sample.value for sample in read(path)} == parsed(path.read_text()) == expected
    # Nothing is left beside it but the lock.
    assert sorted(file.name for file in path.parent.iterdir()) == [".esans.prom.lock", "esans.prom"]


def test_known_metrics_have_their_help_and_type_and_others_keep_theirs(tmp_path: Path) -> None:
    update(tmp_path / "esans.prom", [Sample("esans_stage_seconds", 1.5, {"stage": "prepare"}), Sample("own_figure", 2, help="Mine.")])
    update(tmp_path / "esans.prom", [Sample("own_figure", float("nan"))])
    families = {family.name: family for family in text_string_to_metric_families((tmp_path / "esans.prom").read_text())}
    assert families["esans_stage_seconds"].documentation == "Seconds that the latest run of a stage took, whatever its end."
    assert {family.type for family in families.values()} == {"gauge"}
    assert families["own_figure"].documentation == "Mine."
    assert families["own_figure"].samples[0].value == 2
    assert (tmp_path / "esans.prom").stat().st_mode & 0o777 == 0o644


def test_a_name_that_prometheus_does_not_take_is_refused() -> None:
    with pytest.raises(ValueError, match="no name of a metric"):
        Sample("recall@50", 1)


def _add(path: Path, which: int) -> None:
    for turn in range(20):
        update(path, [Sample("esans_own", turn, {"writer": str(which)})])


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_add, args=(tmp_path / "esans.prom", which)) for which in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert {sample.labels["writer"]: sample.value for sample in read(tmp_path / "esans.prom")} == {str(which): 19 for which in range(4)}
