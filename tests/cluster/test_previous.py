from __future__ import annotations

import numpy as np
import pytest

from esans.cluster.stage import Cluster
from esans.codebooks.codebook import nearest
from esans.errors import BundleError, DataError
from tests.cluster.helpers import DIM, assert_guarantees, column, inputs
from tests.features.helpers import run_stage

N, NEW = 600, 40
CENTRES = np.random.default_rng(7).standard_normal((12, DIM))


def vectors(seed=0):
    """Items N .. N + NEW - 1 are those that are new to the second build."""
    random = np.random.default_rng(seed)
    own = random.integers(0, len(CENTRES), N + NEW)
    both = [CENTRES[own] + 0.35 * random.standard_normal((N + NEW, DIM)) for _ in range(2)]
    return [(rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32) for rows in both]


def rotation():
    return np.linalg.qr(np.random.default_rng(3).standard_normal((DIM, DIM)))[0].astype(np.float32)


def codes(bundle, n=N):
    return np.stack([column(bundle, "codes", name, "item_idx")[:n] for name in ("c1", "c2")], axis=1)


def centroids(bundle, table):
    return column(bundle, table, "centroid").astype(np.float32)


@pytest.fixture(scope="module")
def first(spark, tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    text, behaviour = vectors()
    source = inputs(folder, text[:N], behaviour[:N], space="a")
    return source, run_stage(Cluster, folder, source, num_primary=12)


@pytest.fixture(scope="module")
def grown(spark, tmp_path_factory):
    return inputs(tmp_path_factory.mktemp("grown"), *vectors(), num_items=N + NEW + 2, space="a")


def test_a_rebuild_on_the_same_vectors_keeps_codebooks_ids_and_codes(first, tmp_path):
    source, bundle = first
    again = run_stage(Cluster, tmp_path, {**source, "previous": bundle}, seed=5, num_primary=12)
    np.testing.assert_array_equal(codes(again), codes(bundle))
    np.testing.assert_array_equal(centroids(again, "primaries"), centroids(bundle, "primaries"))
    assert again.figures["stability.primary_ari"] == again.figures["stability.cell_ari"] == 1


def test_a_retrained_alignment_turns_the_space_and_the_clusters_stay(first, tmp_path):
    _, bundle = first
    text, behaviour = (rows @ rotation() for rows in vectors())
    turned = inputs(tmp_path, text, behaviour, space="b")
    again = run_stage(Cluster, tmp_path, {**turned, "previous": bundle}, num_primary=12)
    assert_guarantees(again, N + NEW, N + NEW)
    assert again.figures["stability.primary_ari"] > 0.9
    assert (codes(again)[:, 0] == codes(bundle)[:, 0]).mean() > 0.95
    assert (codes(again)[:, 1] == codes(bundle)[:, 1]).mean() > 0.8
    assert np.linalg.norm(centroids(again, "primaries") - centroids(bundle, "primaries") @ rotation(), axis=1).max() < 0.3


def test_a_build_afresh_after_vectors_moved_has_the_old_ids_where_clusters_are_the_same(first, tmp_path):
    _, bundle = first
    text, behaviour = (rows[:N] + 0.03 * np.random.default_rng(1).standard_normal((N, DIM)) for rows in vectors())
    again = run_stage(
        Cluster, tmp_path, {**inputs(tmp_path, text, behaviour, space="a"), "previous": bundle}, num_primary=12, keep_within=0.0
    )
    assert_guarantees(again, N, N)
    assert (codes(again)[:, 0] == codes(bundle)[:, 0]).mean() > 0.8


def test_frozen_codebooks_keep_every_code_and_give_new_items_the_nearest(first, grown, tmp_path):
    _, bundle = first
    again = run_stage(Cluster, tmp_path, {**grown, "previous": bundle}, num_primary=12, previous="x", assign_only=True)
    assert_guarantees(again, N + NEW, N + NEW + 2)
    np.testing.assert_array_equal(codes(again), codes(bundle))
    for table in ("primaries", "secondaries", "prototypes"):
        np.testing.assert_array_equal(centroids(again, table), centroids(bundle, table))
    assert again.table("transitions").arrow().equals(bundle.table("transitions").arrow())
    prototypes = bundle.table("prototypes").arrow()
    text, behaviour = vectors()
    near = nearest((text + behaviour)[N:] / 2, centroids(bundle, "prototypes"), np.array(prototypes.column("penalty")))
    np.testing.assert_array_equal(codes(again, N + NEW)[N:, 0], near)
    assert (again.figures["assign_only.new"], again.figures["assign_only.kept"]) == (NEW, N)
    assert again.figures["assign_only.agreement"] == pytest.approx(1, abs=0.01)
    assert again.facts["unassigned"] == 2


def test_frozen_clusters_survive_a_turned_space_and_not_another_one(first, tmp_path):
    _, bundle = first
    text, behaviour = (rows @ rotation() for rows in vectors())
    frozen = {"num_primary": 12, "previous": "x", "assign_only": True}
    again = run_stage(Cluster, tmp_path, {**inputs(tmp_path, text, behaviour, space="b"), "previous": bundle}, **frozen)
    assert_guarantees(again, N + NEW, N + NEW)
    np.testing.assert_array_equal(codes(again), codes(bundle))
    assert again.figures["assign_only.agreement"] > 0.8
    other = inputs(tmp_path, *(np.random.default_rng(9).permutation(rows) for rows in vectors()), space="c")
    with pytest.raises(DataError, match=r"^cluster\.assign_only: the nearest primary is the one they have for \d+\.\d% of 600 old items"):
        run_stage(Cluster, tmp_path, {**other, "previous": bundle}, **frozen)


def test_items_that_vanished_from_a_frozen_cluster_ask_for_a_rebuild(first, tmp_path):
    _, bundle = first
    text, behaviour = (rows[:200] for rows in vectors())
    with pytest.raises(DataError) as error:
        run_stage(Cluster, tmp_path, {**inputs(tmp_path, text, behaviour, space="a"), "previous": bundle}, previous="x", assign_only=True)
    assert str(error.value).startswith("cluster.assign_only: items that vanished left ")
    assert str(error.value).endswith("Rebuild (cluster.assign_only=false), or lower cluster.min_cluster_size.")


def test_trained_codebooks_are_taken_as_they_are_and_mended_where_they_must(spark, tmp_path):
    text, behaviour = (rows[:N] for rows in vectors())
    mean = (text + behaviour) / 2
    random = np.random.default_rng(0)
    primary = np.stack([mean[nearest(mean, CENTRES.astype(np.float32) / 2) == k].mean(0) for k in range(12)])
    secondary = 0.3 * random.standard_normal((4, 2 * DIM)).astype(np.float32)
    plain = run_stage(Cluster, tmp_path, inputs(tmp_path, text, behaviour, codebooks=(primary, secondary)), mode="vq")
    np.testing.assert_array_equal(centroids(plain, "primaries"), primary)
    np.testing.assert_array_equal(centroids(plain, "secondaries"), secondary)
    dead = np.concatenate([primary, np.full((3, DIM), 9, np.float32)])
    mended = run_stage(Cluster, tmp_path, inputs(tmp_path, text, behaviour, codebooks=(dead, secondary)), mode="vq")
    for bundle in (plain, mended):
        assert_guarantees(bundle, N, N)
    assert mended.figures["repair.merged"] >= 3
    assert mended.facts["num_secondary"] == 4
    assert not np.array_equal(centroids(mended, "secondaries"), secondary)


def test_trained_codebooks_that_are_missing_or_of_another_size_say_what_to_set(first, tmp_path):
    source, _ = first
    with pytest.raises(BundleError) as error:
        run_stage(Cluster, tmp_path, source, mode="vq")
    assert str(error.value) == (
        f"cluster.mode = 'vq' takes the codebooks that the align stage trains, and {source['align'].uri} has none.\n"
        "Set align.codebooks=vq and run align again, or set cluster.mode=kmeans."
    )
    text, behaviour = (rows[:N] for rows in vectors())
    trained = np.eye(5, DIM, dtype=np.float32), np.zeros((2, 2 * DIM), np.float32)
    with pytest.raises(DataError) as size:
        run_stage(Cluster, tmp_path, inputs(tmp_path, text, behaviour, codebooks=trained), mode="vq", num_primary=9)
    assert str(size.value) == (
        "cluster.num_primary = 9, and the codebook that the align stage trained has 5.\n"
        "Leave cluster.num_primary out, or set align.vq.num_primary=9 and run align again."
    )
