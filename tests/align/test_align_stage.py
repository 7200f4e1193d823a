from __future__ import annotations

import numpy as np
import pytest
import torch

from esans.align.stage import Align
from esans.errors import ConfigError
from tests.align.clouds import dense, features, turned, unit
from tests.features.helpers import run_stage


def test_two_views_of_the_same_items_find_each_other(tmp_path):
    text = unit(600, 12, 0)
    source = features(tmp_path, {"text": text, "behaviour": turned(text, 16, 1)})
    bundle = run_stage(Align, tmp_path, {"features": source}, dim=16, epochs=15)
    assert bundle.figures["recall@10.text_to_behaviour"] > 0.8
    wanted = {"num_items": 600, "modalities": ["text", "behaviour"], "dim": 16, "unaligned": 0, "codebooks": "none"}
    assert {name: bundle.facts[name] for name in wanted} == wanted
    np.testing.assert_allclose((dense(bundle, "text") + dense(bundle, "behaviour")) / 2, dense(bundle, "mean"), atol=1e-5)


def test_a_missing_modality_is_filled_and_items_without_any_have_no_row(tmp_path):
    text = unit(200, 8, 0)
    coverage = {"text": np.arange(200) % 2 == 0, "behaviour": np.arange(200) % 3 == 0}
    source = features(tmp_path, {"text": text, "behaviour": turned(text, 8, 1)}, coverage)
    bundle = run_stage(Align, tmp_path, {"features": source}, dim=8, epochs=2, batch_size=16)
    table = bundle.table("vectors").arrow()
    kept = [item for item in range(200) if item % 2 == 0 or item % 3 == 0]
    assert table.column("item_idx").to_pylist() == kept
    assert bundle.facts["unaligned"] == 200 - len(kept)
    assert table.column("present").to_pylist() == [[item % 2 == 0, item % 3 == 0] for item in kept]
    only_text = [place for place, item in enumerate(kept) if item % 3]
    np.testing.assert_allclose(dense(bundle, "behaviour")[only_text], dense(bundle, "text")[only_text], atol=1e-5)


def test_a_single_modality_is_taken_as_it_is_and_this_is_said(tmp_path, capsys):
    text = unit(50, 8, 0)
    bundle = run_stage(Align, tmp_path, {"features": features(tmp_path, {"text": text})}, dim=8)
    np.testing.assert_allclose(dense(bundle, "text"), text, atol=1e-6)
    assert "only one modality (text): nothing to align; its 8 floats are taken as they are" in capsys.readouterr().out


def test_a_single_modality_of_another_length_keeps_its_angles(tmp_path, capsys):
    text = unit(50, 8, 0)
    bundle = run_stage(Align, tmp_path, {"features": features(tmp_path, {"text": text})}, dim=12, head="mlp")
    aligned = dense(bundle, "text")
    np.testing.assert_allclose(aligned @ aligned.T, text @ text.T, atol=1e-5)
    assert "its 8 floats are turned into 12 by a random orthonormal matrix" in capsys.readouterr().out


@pytest.mark.parametrize("share", [0.0, 0.01])
def test_a_modality_that_hardly_any_item_has_does_no_harm(tmp_path, capsys, share):
    image = np.arange(300) < 300 * share
    source = features(tmp_path, {"text": unit(300, 8, 0), "image": unit(300, 8, 1)}, {"image": image})
    bundle = run_stage(Align, tmp_path, {"features": source}, dim=8, epochs=2)
    assert np.isfinite(dense(bundle, "mean")).all()
    assert "too few items with two modalities" in capsys.readouterr().out


def test_a_constant_modality_gives_finite_vectors_and_no_recall(tmp_path):
    source = features(tmp_path, {"text": unit(400, 8, 0), "behaviour": np.tile(unit(1, 8, 1), (400, 1))})
    bundle = run_stage(Align, tmp_path, {"features": source}, dim=8, epochs=3)
    assert np.isfinite(dense(bundle, "mean")).all()
    assert bundle.figures["recall@10.text_to_behaviour"] == 0


def test_the_same_seed_gives_the_same_table_and_files_are_cut_as_asked(tmp_path):
    text = unit(300, 8, 0)
    source = features(tmp_path, {"text": text, "behaviour": turned(text, 8, 1)})
    one = run_stage(Align, tmp_path, {"features": source}, seed=4, dim=8, epochs=3)
    other = run_stage(Align, tmp_path, {"features": source}, seed=4, dim=8, epochs=3)
    assert one.table("vectors").arrow().equals(other.table("vectors").arrow())
    windows = run_stage(Align, tmp_path, {"features": source}, dim=8, epochs=3, buffer_items=64, rows_per_file=100)
    assert len(windows.table("vectors").files) > 1
    assert windows.table("vectors").rows == 300


def test_a_gpu_that_is_not_there_is_refused_by_name(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    source = features(tmp_path, {"text": unit(10, 8, 0)})
    with pytest.raises(
        ConfigError, match=r"^align\.launch\.device = 'cuda': this machine has no GPU that torch can use. Use auto or cpu\.$"
    ):
        run_stage(Align, tmp_path, {"features": source}, launch={"device": "cuda"})
