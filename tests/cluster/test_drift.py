"""Codes are kept while they fit the vectors, and fitted again, with the earlier ids, where they do not; the bundle says which and why."""

from __future__ import annotations

import numpy as np
import pytest

from esans.cluster.stage import Cluster
from tests.cluster.helpers import DIM, assert_guarantees, inputs
from tests.cluster.test_previous import NEW, N, codes, vectors
from tests.features.helpers import run_stage

KEEP = {"num_primary": 12, "previous": "x", "assign_only": True}


@pytest.fixture(scope="module")
def first(spark, tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    return run_stage(Cluster, folder, inputs(folder, *(rows[:N] for rows in vectors()), space="a"), num_primary=12)


@pytest.fixture(scope="module")
def grown(spark, tmp_path_factory):
    return inputs(tmp_path_factory.mktemp("grown"), *vectors(), space="a")


def test_within_the_bounds_old_codes_stay_and_what_they_were_fitted_on_is_carried_along(first, grown, tmp_path, capsys):
    bundle = run_stage(Cluster, tmp_path, {**grown, "previous": first}, **KEEP, drift={"action": "rebuild"})
    np.testing.assert_array_equal(codes(bundle), codes(first))
    assert bundle.facts["decision"] == {"kind": "kept", "reason": f"{NEW} new items assigned, within the bounds of cluster.drift"}
    assert bundle.facts["basis"] == first.facts["basis"]
    assert first.facts["decision"] == {"kind": "fitted", "reason": "there is no earlier build"}
    assert first.facts["basis"]["items"] == N
    assert bundle.figures["drift.new"] == pytest.approx(NEW / (N + NEW))
    assert bundle.figures["drift.distance"] == pytest.approx(0, abs=0.05)
    assert "fitted again" not in capsys.readouterr().out


def test_a_broken_bound_fits_again_from_the_earlier_codebooks_and_says_why(first, grown, tmp_path, capsys):
    bundle = run_stage(
        Cluster, tmp_path, {**grown, "previous": first}, **KEEP, drift={"action": "rebuild", "max_new": 0.05}, keep_within=0.0
    )
    assert_guarantees(bundle, N + NEW, N + NEW)
    reason = f"{NEW / (N + NEW):.1%} of the items came since the codebooks were fitted, cluster.drift.max_new = 0.05"
    assert bundle.facts["decision"] == {"kind": "refitted", "reason": reason}
    assert f"clusters are fitted again: {reason}" in capsys.readouterr().out
    assert bundle.facts["basis"]["items"] == N + NEW
    # The ids are the earlier ones.
    assert (codes(bundle)[:, 0] == codes(first)[:, 0]).mean() > 0.7


def test_vectors_that_moved_fit_again_and_so_does_what_would_have_stopped(first, tmp_path):
    random = np.random.default_rng(1)
    moved = [rows[:N] + 0.3 * random.standard_normal((N, DIM)) for rows in vectors()]
    bundle = run_stage(Cluster, tmp_path, {**inputs(tmp_path, *moved, space="a"), "previous": first}, **KEEP, drift={"action": "rebuild"})
    assert bundle.facts["decision"]["kind"] == "refitted"
    assert "more distance to the own centroid than when the codebooks were fitted" in bundle.facts["decision"]["reason"]
    assert bundle.figures["drift.distance"] > 0.2
    fewer = inputs(tmp_path, *(rows[:200] for rows in vectors()), space="a")
    shrunk = run_stage(Cluster, tmp_path, {**fewer, "previous": first}, previous="x", assign_only=True, drift={"action": "rebuild"})
    assert shrunk.facts["decision"]["reason"].startswith("items that vanished left ")
    assert_guarantees(shrunk, 200, 200)
