"""Negatives that Spark joins to the examples: the distribution of the device, the same ones whenever a task is repeated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from scipy.stats import chisquare

from esans import columns as c
from esans.bundle import Bundle
from esans.config import build
from esans.errors import ConfigError
from esans.flow import Plan
from esans.negatives.cluster_bundle import load_clusters
from esans.negatives.registry import build_samplers, columns, resolve
from esans.negatives.tables import Catalogue, ClusterTables
from esans.settings import Settings, Source
from esans.shards.config import ShardsConfig, StitchConfig
from esans.shards.layout import shuffle
from esans.shards.stage import Shards
from esans.shards.stitch import runs, stitch
from esans.train.inputs import load_catalogue
from esans.train.loader import Loader
from tests.features.helpers import run_stage
from tests.negatives.conftest import context_of, generator_of, make_batch, make_clusters
from tests.shards.bundles import cluster_bundle, prepare_bundle

ROWS, DRAWS, CLUSTERS, PER_CLUSTER, HARD = 6_000, 2, 2, 3, 4
STITCH = StitchConfig(draws=DRAWS, clusters=CLUSTERS, per_cluster=PER_CLUSTER, hard=HARD)
# 0: an ordinary cell; 12: its primary has one cell, topped up from the third; 36: the last primary, no pool; 41: no cluster.
TARGETS = (0, 12, 36, 41)


@pytest.fixture(scope="module")
def tables() -> ClusterTables:
    return make_clusters([[5, 3, 2], [6], [4, 8, 7], [4]], [[-1, -1, -1], [2], [-1, -1, -1], [-1]], unassigned=4)


@pytest.fixture(scope="module")
def cluster(tables: ClusterTables, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return cluster_bundle(tmp_path_factory.mktemp("cluster"), tables)


def examples(spark: SparkSession, partitions: int = 2) -> Any:
    """ROWS examples of each target."""
    targets = F.array(*[F.lit(target) for target in TARGETS])
    rows = spark.range(0, ROWS * len(TARGETS), 1, partitions).withColumnRenamed("id", c.USER_IDX)
    return rows.withColumn(c.TARGET, targets[F.col(c.USER_IDX) % len(TARGETS)].cast("long")).withColumn(c.TIMESTAMP, F.lit(7).cast("long"))


def stitched(spark: SparkSession, cluster: Bundle, partitions: int = 2, seed: int = 0) -> pa.Table:
    laid = shuffle(examples(spark, partitions), 3, ShardsConfig(rows_per_shard=1), seed=5)
    return stitch(laid, cluster, STITCH, seed).toArrow()


@pytest.fixture(scope="module")
def drawn(spark: SparkSession, cluster: Bundle) -> pa.Table:
    return stitched(spark, cluster)


def ids_of(drawn: pa.Table, column: str, target: int) -> torch.Tensor:
    """(ROWS, draws, n) of one target."""
    rows = drawn.filter(pa.compute.equal(drawn[c.TARGET], target))
    return torch.tensor(rows[column].to_pylist()).view(ROWS, DRAWS, -1)


def test_the_tables_come_back_as_they_were_written(tables: ClusterTables, cluster: Bundle) -> None:
    read = load_clusters(cluster)
    assert all(torch.equal(value, vars(tables)[name]) for name, value in vars(read).items())


@pytest.mark.parametrize(
    ("column", "name", "keys", "target"),
    [
        (c.EASY_IDS, "easy", {"clusters": CLUSTERS, "per_cluster": PER_CLUSTER}, 0),
        (c.EASY_IDS, "easy", {"clusters": CLUSTERS, "per_cluster": PER_CLUSTER}, 36),
        (c.HARD_IDS, "hard", {"num_negatives": HARD}, 0),
        (c.HARD_IDS, "hard", {"num_negatives": HARD}, 12),
    ],
)
def test_stitched_draws_have_the_distribution_of_draws_on_the_device(
    drawn: pa.Table, tables: ClusterTables, column: str, name: str, keys: dict[str, int], target: int
) -> None:
    num_items = len(tables.item_cell_N)
    catalogue = Catalogue(num_items, torch.full((num_items,), 1 / num_items), tables)
    on_device = build_samplers(resolve([{"sampler": name, **keys}]), catalogue)[0]
    batch = make_batch([target] * ROWS)
    log_count = on_device.log_expected_count(context_of(batch), torch.arange(num_items))
    assert log_count is not None
    share = (log_count[0].exp() / log_count[0].exp().sum()).double()
    stored = ids_of(drawn, column, target)
    proposed = on_device.propose(batch, torch.zeros(ROWS, 1), generator_of(1)).ids.reshape(ROWS, 1, -1)
    for ids in (stored, proposed):
        # One draw of each row only: rows are independent, the draws of one row are not.
        flat = ids.reshape(ROWS, -1)
        single = flat.gather(1, torch.randint(flat.shape[1], (ROWS, 1), generator=generator_of(target))).flatten()
        counts = torch.bincount(single, minlength=num_items).double()
        assert counts[share == 0].sum() == 0
        assert chisquare(counts[share > 0].numpy(), (share[share > 0] * ROWS / share.sum()).numpy()).pvalue > 1e-4


def test_the_clusters_of_one_draw_differ_and_each_draw_is_a_new_one(drawn: pa.Table, tables: ClusterTables) -> None:
    easy = ids_of(drawn, c.EASY_IDS, 0).view(ROWS, DRAWS, CLUSTERS, PER_CLUSTER)
    primaries = tables.item_primary_N[easy]
    assert (primaries == primaries[..., :1]).all()
    assert (primaries[..., 0, 0] != primaries[..., 1, 0]).all()
    # Two of the 19 x 18 x 17 draws of a pool in each row are hardly ever the same four items.
    hard = ids_of(drawn, c.HARD_IDS, 12)
    assert (hard[:, 0] == hard[:, 1]).all(dim=1).float().mean() < 0.01
    assert len(hard[:, 0].unique(dim=0)) > 0.9 * ROWS


def test_a_positive_without_a_cluster_or_a_pool_is_padded(drawn: pa.Table) -> None:
    assert (ids_of(drawn, c.EASY_IDS, 41) == c.PADDING).all()
    assert (ids_of(drawn, c.HARD_IDS, 41) == c.PADDING).all()
    assert (ids_of(drawn, c.HARD_IDS, 36) == c.PADDING).all()
    assert (ids_of(drawn, c.EASY_IDS, 36) >= 0).all()


def test_a_repeated_run_draws_the_same_however_rows_reach_it(spark: SparkSession, cluster: Bundle, drawn: pa.Table) -> None:
    name = "spark.sql.execution.arrow.maxRecordsPerBatch"
    before = spark.conf.get(name)
    try:
        spark.conf.set(name, "777")
        again = stitched(spark, cluster, partitions=5)
    finally:
        spark.conf.set(name, before)
    assert again.equals(drawn)
    assert not stitched(spark, cluster, seed=1)[c.EASY_IDS].equals(drawn[c.EASY_IDS])


def test_more_clusters_than_there_are_is_refused_before_any_work(spark: SparkSession, cluster: Bundle) -> None:
    with pytest.raises(ConfigError) as error:
        stitch(examples(spark), cluster, StitchConfig(draws=1, clusters=4), seed=0)
    assert str(error.value) == "shards.stitch.clusters = 4: must be below the number of primary clusters (4)."


@given(st.lists(st.integers(0, 9), max_size=6), st.integers(1, 7))
def test_runs_hold_the_same_rows_in_equal_lengths_however_batches_were_cut(sizes: list[int], size: int) -> None:
    rows = iter(range(sum(sizes)))
    batches = [pa.RecordBatch.from_pydict({"row": pa.array([next(rows) for _ in range(count)], pa.int64())}) for count in sizes]
    found = list(runs(batches, size))
    assert [row for run in found for row in run["row"].to_pylist()] == list(range(sum(sizes)))
    assert all(len(run) == size for run in found[:-1])
    assert all(0 < len(run) <= size for run in found)


def positives(users: int = 30) -> list[tuple[int, int, int, str]]:
    return [(user, (7 * user + step) % 39, 10 * step, c.TRAIN if step < 8 else c.TEST) for user in range(users) for step in range(9)]


def test_the_stage_writes_what_the_stitched_samplers_read(tmp_path: Path, spark: SparkSession, cluster: Bundle) -> None:
    keys = {"history_length": 4, "rows_per_shard": 100, "stitch": {"draws": DRAWS, "clusters": 3, "per_cluster": 4, "hard": 2}}
    shards = run_stage(Shards, tmp_path, {"prepare": prepare_bundle(tmp_path, positives(), None, 43), "cluster": cluster}, **keys)
    assert shards.facts["columns"] == {c.EASY_IDS: [DRAWS, 3, 4], c.HARD_IDS: [DRAWS, 2]}
    groups = resolve([{"sampler": "stitched_easy"}, {"sampler": "stitched_hard"}])
    loader = Loader(shards.table("examples"), 32, 0, 1, torch.device("cpu"), 2, 2, 0, extra=columns(groups))
    easy, hard = build_samplers(groups, load_catalogue(shards, None))
    for batch in loader.epoch(0):
        proposed = [sampler.propose(batch, torch.zeros(len(batch), 1), generator_of(0)) for sampler in (easy, hard)]
        assert [negatives.ids.shape for negatives in proposed] == [(32, 3, 4), (32, 2)]
        for negatives in proposed:
            assert negatives.valid.any()
            assert not (negatives.valid & batch.knows(negatives.ids)).any()


def test_shards_without_stitching_hold_no_draws_and_need_no_clusters(tmp_path: Path, spark: SparkSession) -> None:
    shards = run_stage(Shards, tmp_path, {"prepare": prepare_bundle(tmp_path, positives(), None, 43)}, history_length=4)
    assert shards.facts["columns"] == {}
    assert set(shards.table("examples").arrow().column_names) == {c.USER_IDX, c.TARGET, c.HISTORY, c.TIMESTAMP, c.WEIGHT, c.KNOWN}


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    """The settings of the quickstart, whose paths start at the clone, with overrides."""
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    return lambda *overrides: Source(("conf/quickstart.yaml",), overrides).load()


def test_new_clusters_make_new_shards_only_where_negatives_are_stitched(settings: Callable[..., Settings]) -> None:
    def uri(*overrides: str) -> str:
        return Plan(settings(*overrides)).stage("shards").uri

    stitching, other = "--shards.stitch.draws=1", "--cluster.n_h=4"
    assert uri() == uri(other)
    assert uri(stitching) != uri(stitching, other)
    assert set(Plan(settings(stitching)).stage("shards").inputs) == {"prepare", "cluster"}
    assert set(Plan(settings()).stage("shards").inputs) == {"prepare"}


@pytest.mark.parametrize(
    ("method", "place", "sampler", "key"),
    [("esans_stitched", 1, "stitched_easy", "stitch.draws"), ("exposed", 1, "exposed", "exposures")],
)
def test_a_method_whose_negatives_are_not_in_the_shards_is_refused_before_any_stage_runs(
    settings: Callable[..., Settings], method: str, place: int, sampler: str, key: str
) -> None:
    with pytest.raises(ConfigError) as error:
        Plan(settings(f"--method={method}"))
    assert str(error.value) == (
        f"train.negatives.{place}: the {sampler} sampler reads negatives that the shards stage writes, and shards.{key} = 0: "
        "set it to 1 or more."
    )
    Plan(settings(f"--method={method}", f"--shards.{key}=1"))


def test_settings_without_a_resolved_group_are_no_obstacle() -> None:
    Plan(build(Settings, {}))
