"""An alignment on top of an earlier one: frozen heads keep every vector that has not changed, warm ones go on from them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esans.align.earlier import Unchanged
from esans.align.stage import Align
from esans.errors import ConfigError, DataError
from esans.lineage import space_of
from tests.align.clouds import codebook, dense, features, turned, unit
from tests.features.helpers import run_stage

N, NEW, CHANGED = 300, 40, 7


@pytest.fixture(scope="module")
def clouds():
    text = unit(N + NEW, 8, 0)
    return text, turned(text, 8, 1)


@pytest.fixture(scope="module")
def first(tmp_path_factory, clouds):
    folder = tmp_path_factory.mktemp("align")
    text, behaviour = (rows[:N] for rows in clouds)
    return run_stage(
        Align,
        folder,
        {"features": features(folder, {"text": text, "behaviour": behaviour})},
        dim=8,
        epochs=6,
        batch_size=32,
        learning_rate=0.03,
    )


def test_frozen_heads_give_old_items_the_same_bits_and_project_what_is_new_or_changed(first, clouds, tmp_path, capsys):
    text, behaviour = clouds
    behaviour = behaviour.copy()
    behaviour[:CHANGED] = behaviour[100 : 100 + CHANGED]
    # Other windows and files than in the first build: the products run in blocks of other sizes.
    grown = features(tmp_path, {"text": text, "behaviour": behaviour}, files=3)
    again = run_stage(Align, tmp_path, {"features": grown, "previous": first}, dim=8, previous="x", buffer_items=64, rows_per_file=100)
    for name in ("text", "behaviour", "mean"):
        np.testing.assert_array_equal(dense(again, name)[CHANGED:N], dense(first, name)[CHANGED:])
    assert np.abs(dense(again, "behaviour")[:CHANGED] - dense(first, "behaviour")[:CHANGED]).max() > 0.1
    np.testing.assert_allclose(dense(again, "behaviour")[:CHANGED], dense(first, "behaviour")[100 : 100 + CHANGED], atol=1e-5)
    assert space_of(again) == space_of(first)
    kept = {name: again.figures[f"previous.{name}"] for name in ("kept", "changed", "new")}
    assert kept == {"kept": N - CHANGED, "changed": CHANGED, "new": NEW}
    assert f"{N - CHANGED} vectors kept, {CHANGED} changed, {NEW} new" in capsys.readouterr().out
    assert "epochs" not in again.figures


def test_warm_heads_go_on_from_the_earlier_ones_in_a_space_of_their_own(first, clouds, tmp_path):
    text, behaviour = clouds
    grown = features(tmp_path, {"text": text, "behaviour": behaviour})
    keys = {"dim": 8, "epochs": 1, "learning_rate": 0.0001, "seed": 5}
    warm = run_stage(Align, tmp_path, {"features": grown, "previous": first}, previous="x", previous_mode="warm", **keys)
    cold = run_stage(Align, tmp_path, {"features": grown}, **keys)

    def alike(bundle):
        return (dense(bundle, "behaviour")[:N] * dense(first, "behaviour")).sum(1).mean()

    assert alike(warm) > 0.99
    assert alike(warm) > alike(cold) + 0.05
    assert "space" not in warm.facts
    assert warm.figures["recall@10.text_to_behaviour"] > cold.figures["recall@10.text_to_behaviour"]


def test_trained_codebooks_are_kept_as_they_are_and_go_on_when_warm(clouds, tmp_path):
    text, behaviour = clouds
    vq = {"codebooks": "vq", "dim": 8, "epochs": 2, "vq": {"warmup_epochs": 1, "num_primary": 6, "num_secondary": 3, "min_cluster_size": 5}}
    begun = run_stage(Align, tmp_path, {"features": features(tmp_path, {"text": text[:N], "behaviour": behaviour[:N]})}, **vq)
    inputs = {"features": features(tmp_path, {"text": text, "behaviour": behaviour}), "previous": begun}
    frozen = run_stage(Align, tmp_path, inputs, previous="x", **vq)
    warm = run_stage(Align, tmp_path, inputs, previous="x", previous_mode="warm", **{**vq, "epochs": 2, "learning_rate": 1e-5})
    for level in ("primary", "secondary"):
        np.testing.assert_array_equal(codebook(frozen, level), codebook(begun, level))
        assert np.abs(codebook(warm, level) - codebook(begun, level)).max() < 0.5


def test_heads_of_other_shapes_and_features_of_another_space_are_refused(first, clouds, tmp_path):
    text, behaviour = clouds
    grown = features(tmp_path, {"text": text, "behaviour": behaviour})
    with pytest.raises(ConfigError, match=r"its heads take text, behaviour to 8 floats, and today's would take .* to 12\."):
        run_stage(Align, tmp_path, {"features": grown, "previous": first}, dim=12, previous="x")
    with pytest.raises(ConfigError, match=r"it has no codebooks, and align\.codebooks = 'vq' needs them"):
        run_stage(Align, tmp_path, {"features": grown, "previous": first}, dim=8, previous="x", codebooks="vq")
    grown.facts["spaces"] = {"behaviour": "another"}  # type: ignore[index]
    with pytest.raises(DataError, match=r"the behaviour vectors of .* lie in another space .*\nSet features\.previous"):
        run_stage(Align, tmp_path, {"features": grown, "previous": first}, dim=8, previous="x")


class Batches:
    """A table in batches of a few rows."""

    def __init__(self, item, vectors, size):
        self.item, self.vectors, self.size = item, vectors, size

    def batches(self, columns):
        for start in range(0, len(self.item), self.size):
            part = slice(start, start + self.size)
            lists = pa.array(list(self.vectors[part]), pa.list_(pa.float32()))
            present = pa.array([[True]] * len(self.item[part]), pa.list_(pa.bool_()))
            yield pa.RecordBatch.from_arrays([pa.array(self.item[part]), lists, lists, present], columns)


items = st.sets(st.integers(0, 30), min_size=1).map(lambda found: np.array(sorted(found), np.int64))


@settings(deadline=None, max_examples=40)
@given(old=items, now=items, size=st.integers(1, 9), chunk=st.integers(1, 9), seed=st.integers(0, 99))
def test_kept_rows_are_found_whatever_is_missing_on_either_side(old, now, size, chunk, seed):
    vectors = unit(31, 4, seed)
    rounded, moved = vectors + np.float32(1e-7), np.random.default_rng(seed).random(31) < 0.3
    rounded[moved] += 0.1
    found = Unchanged(Batches(old, vectors[old], size), ["text"])
    got = []
    for start in range(0, len(now), chunk):
        part = now[start : start + chunk]
        values = {"text": rounded[part], "mean": rounded[part], "present": np.ones((len(part), 1), bool)}
        found.keep(part, values)
        np.testing.assert_array_equal(values["text"], values["mean"])
        got.append(values["text"])
    kept = np.isin(now, old) & ~moved[now]
    np.testing.assert_array_equal(np.concatenate(got), np.where(kept[:, None], vectors[now], rounded[now]))
    assert (found.kept, found.new) == (kept.sum(), (~np.isin(now, old)).sum())
    assert found.kept + found.changed + found.new == len(now)
