from __future__ import annotations

import json

import numpy as np
import pytest

from esans.cluster.stage import Cluster
from esans.codebooks.codebook import nearest, residuals
from esans.config import build
from esans.errors import ConfigError, DataError
from esans.settings import Settings
from tests.cluster.helpers import assert_guarantees, column, inputs, unit
from tests.features.helpers import run_stage


@pytest.fixture(scope="module")
def source(spark, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    return inputs(folder, unit(400), unit(400, 1), num_items=403)


@pytest.fixture(scope="module")
def built(source, tmp_path_factory):
    return run_stage(Cluster, tmp_path_factory.mktemp("built"), source, category="kind")


def test_the_tables_keep_every_guarantee_and_items_without_a_vector_have_no_cluster(built):
    assert_guarantees(built, 400, 403)
    assert built.facts["unassigned"] == 3


def test_assignment_in_spark_is_that_of_numpy_over_the_published_codebooks(built, source):
    vectors = source["align"].table("vectors").arrow()
    both = np.stack([np.array(vectors.column(name).to_pylist(), np.float32) for name in ("text", "behaviour")], axis=1)
    prototypes = built.table("prototypes").arrow()
    centroid, penalty = (np.array(prototypes.column(name).to_pylist(), np.float32) for name in ("centroid", "penalty"))
    assert prototypes.column("choices").to_pylist() == [[k] for k in range(len(centroid))]
    c1 = nearest(both.mean(1), centroid, penalty)
    np.testing.assert_array_equal(column(built, "codes", "c1", "item_idx")[:400], c1)
    tables = [built.table(name).arrow().column("centroid") for name in ("primaries", "secondaries")]
    primaries, secondaries = (np.array(rows.to_pylist(), np.float32) for rows in tables)
    c2 = nearest(residuals(both, c1, primaries), secondaries)
    np.testing.assert_array_equal(column(built, "codes", "c2", "item_idx")[:400], c2)


def test_the_report_has_every_figure_of_the_method(built):
    with built.local("quality.json") as path:
        figures = json.loads(path.read_text())["figures"]
    assert figures == pytest.approx(dict(built.figures))
    wanted = [
        "utilisation.primary",
        "entropy_ratio",
        "gini",
        "largest_over_mean",
        "repair.empty_before",
        "hard_pool.smallest",
        "category.purity",
    ]
    assert set(wanted) <= set(figures)
    assert 0 <= figures["gini"] < 0.5
    assert figures["utilisation.primary"] == 1
    assert figures["category.chance"] == pytest.approx(0.5)


def test_the_same_seed_gives_the_same_tables_and_a_rebuild_is_compared_with_the_previous_one(source, built, tmp_path):
    again = run_stage(Cluster, tmp_path, {**source, "previous": built}, category="kind")
    for name in ("codes", "cells", "primaries", "secondaries", "transitions", "members"):
        assert again.table(name).arrow().equals(built.table(name).arrow())
    assert again.figures["stability.primary_ari"] == again.figures["stability.cell_ari"] == 1


@pytest.mark.parametrize("kind", ["identical", "one modality constant", "one natural cluster", "one modality at 1 %"])
def test_degenerate_catalogues_keep_the_guarantees(spark, tmp_path, kind):
    text, behaviour = unit(300), unit(300, 1)
    if kind == "identical":
        text[:], behaviour[:] = text[0], behaviour[0]
    elif kind == "one modality constant":
        behaviour[:] = behaviour[0]
    elif kind == "one modality at 1 %":
        # Alignment gives the others the direction of what they have.
        behaviour[3:] = text[3:]
    else:
        text[:280], behaviour[:280] = text[0], behaviour[0]
    # Items that nothing tells apart share one cell, which the gate would refuse.
    bundle = run_stage(Cluster, tmp_path, inputs(tmp_path, text, behaviour), gate={"max_hard_pool_topped_up": None})
    assert_guarantees(bundle, 300, 300)
    if kind == "identical":
        assert bundle.figures["repair.shared_out"] > 0
        assert bundle.figures["hard_pool.topped_up_items"] == 1


def test_more_primaries_than_items_can_fill_are_fewer(spark, tmp_path):
    bundle = run_stage(Cluster, tmp_path, inputs(tmp_path, unit(90), unit(90, 1)), num_primary=500)
    assert_guarantees(bundle, 90, 90)


def test_one_item_cannot_be_clustered_and_the_error_says_what_to_do(spark, tmp_path):
    with pytest.raises(DataError, match=r"^cluster: 1 items have a vector, and 3 primaries of at least 20 items need 60\.\n"):
        run_stage(Cluster, tmp_path, inputs(tmp_path, unit(1), unit(1, 1), num_items=2))


def test_an_unknown_category_names_the_known_ones(source, tmp_path):
    with pytest.raises(DataError) as error:
        run_stage(Cluster, tmp_path, source, category="genre")
    assert str(error.value) == "cluster.category = 'genre': there is no such side column. Configured in prepare.items.side: kind."


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"mode": "rq"}, "cluster: mode = 'rq': must be one of kmeans, vq."),
        (
            {"assign_only": True},
            "cluster: assign_only = True needs previous: the URI of the cluster bundle whose codebooks are kept.",
        ),
        (
            {"n_h": 30},
            "cluster: n_h = 30 is more than min_cluster_size = 20: one primary must be able to top up a hard pool. "
            "Raise min_cluster_size or lower n_h.",
        ),
        ({"num_primary": 2}, "cluster: num_primary = 2 must be more than m_c = 2: easy clusters are drawn among the other primaries."),
    ],
)
def test_impossible_settings_are_refused_by_name(section, message):
    with pytest.raises(ConfigError) as error:
        build(Settings, {"cluster": section})
    assert str(error.value) == message
