from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esans.align.loss import info_nce, recall
from esans.align.model import Aligner, fill_missing, linear_head
from esans.align.reader import Reader, concatenate, held_out
from tests.features.helpers import write_bundle


def unit(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 6), m=st.integers(1, 4), bits=st.integers(0, 2**24 - 1))
def test_a_missing_modality_is_the_renormalised_mean_of_the_present_ones_never_zeros(seed, n, m, bits):
    aligned = unit((n, m, 5), seed)
    present = torch.tensor([[bool(bits >> (row * m + place) & 1) for place in range(m)] for row in range(n)])
    present[:, 0] |= ~present.any(1)
    filled, mean = fill_missing(aligned, present)
    for row in range(n):
        stand_in = torch.nn.functional.normalize(aligned[row][present[row]].mean(0), dim=-1)
        for place in range(m):
            torch.testing.assert_close(filled[row, place], aligned[row, place] if present[row, place] else stand_in, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(mean, filled.mean(1))
    torch.testing.assert_close(filled.norm(dim=-1), torch.ones(n, m), atol=1e-4, rtol=1e-4)


def test_opposite_modalities_leave_the_first_to_speak_for_the_item():
    aligned = torch.tensor([[[1.0, 0], [-1, 0], [0, 1]]])
    filled, _ = fill_missing(aligned, torch.tensor([[True, True, False]]))
    assert filled[0, 2].tolist() == [1, 0]


def naive_loss(aligned, present, temperature):
    total, pairs = 0.0, 0
    for a in range(present.shape[1]):
        for b in range(a + 1, present.shape[1]):
            both = [row for row in range(len(present)) if present[row, a] and present[row, b]]
            if len(both) < 2:
                continue
            pairs += 1
            for x, y in ((a, b), (b, a)):
                for row in both:
                    scores = torch.stack([aligned[row, x] @ aligned[other, y] / temperature for other in both])
                    total += float(torch.logsumexp(scores, 0) - aligned[row, x] @ aligned[row, y] / temperature) / len(both) / 2
    return total if pairs else None


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 5), m=st.integers(1, 3))
def test_the_loss_is_the_double_loop_over_items_that_have_both_modalities(seed, n, m):
    aligned = unit((n, m, 4), seed)
    present = torch.rand(n, m, generator=torch.Generator().manual_seed(seed)) < 0.7
    found, expected = info_nce(aligned, present, 0.5), naive_loss(aligned, present, 0.5)
    assert (found is None) == (expected is None)
    if expected is not None:
        assert float(found) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_constant_modality_retrieves_nothing():
    assert recall(unit((50, 4), 0), torch.ones(50, 4), 10) == 0
    assert recall(unit((50, 4), 0), unit((50, 4), 0), 10) == 1


@pytest.mark.parametrize(("dim", "out"), [(6, 6), (3, 6), (9, 6)])
def test_an_untrained_head_is_orthonormal(dim, out):
    weight = linear_head(dim, out, torch.Generator().manual_seed(0)).weight.detach()
    product = weight.T @ weight if dim <= out else weight @ weight.T
    torch.testing.assert_close(product, torch.eye(min(dim, out)), atol=1e-5, rtol=1e-5)


def test_a_head_can_have_two_layers():
    model = Aligner({"text": 5, "image": 7}, 4, hidden=6, seed=0)
    out = model([torch.randn(3, 5), torch.randn(3, 7)])
    assert out.shape == (3, 2, 4)
    torch.testing.assert_close(out.norm(dim=-1), torch.ones(3, 2))


@settings(max_examples=20, deadline=None)
@given(window=st.integers(1, 40), seed=st.integers(0, 100))
def test_windows_have_the_asked_size_and_hold_every_item_once_in_order(tmp_path_factory, window, seed):
    random = np.random.default_rng(seed)
    text = [random.random(3).tolist() if random.random() < 0.7 else None for _ in range(33)]
    table = pa.table({"item_idx": pa.array(range(33), pa.int64()), "text": pa.array(text, pa.list_(pa.float32()))})
    bundle = write_bundle(tmp_path_factory.mktemp("reader"), "features", {"vectors": table}, {})
    windows = [found.rows for found in Reader(bundle.table("vectors"), {"text": 3}, window).windows()]
    assert [len(part) for part in windows[:-1]] == [window] * (len(windows) - 1)
    rows = concatenate(windows)
    assert rows.item.tolist() == list(range(33))
    for vector, found, present in zip(text, rows.vectors[0], rows.present[:, 0], strict=True):
        assert present == (vector is not None)
        np.testing.assert_allclose(found, vector or [0, 0, 0], rtol=1e-6)


def test_the_held_out_share_is_about_what_was_asked():
    item = np.arange(100_000)
    assert held_out(item, 0.1, 7).mean() == pytest.approx(0.1, abs=0.005)
    assert (held_out(item, 0.1, 7) != held_out(item, 0.1, 8)).any()
