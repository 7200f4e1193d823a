"""Codebooks trained with the alignment: the loss against its plain form, dead codes, k-means as the start, the result (METHOD 2)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from esans.align.books import Books
from esans.align.config import AlignConfig, VQConfig
from esans.align.model import Aligner, fill_missing
from esans.align.ranks import Ranks
from esans.align.stage import Align
from esans.align.start import place_codebooks
from esans.align.trainer import Trainer
from esans.align.vq import Quantiser, dead, figures, reseed
from esans.align.vq import nearest as nearest_code
from esans.align.worker import Reader
from esans.codebooks.codebook import nearest, residuals
from esans.codebooks.kmeans import kmeans
from esans.config import build
from esans.errors import ConfigError, DataError
from tests.align.clouds import clustered, codebook, dense, features, shared_information, turned, unit
from tests.features.helpers import run_stage

ALONE = Ranks(0, 1, torch.device("cpu"))


def some_items(n=12, m=3, d=4, seed=0):
    """Leaf inputs of two heads' outputs, present flags, and a quantiser of 3 and 2 codes."""
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(n, m, d, generator=generator, requires_grad=True)
    present = torch.rand(n, m, generator=generator) < 0.7
    present[:, 0] |= ~present.any(1)
    books = torch.randn(3, d, generator=generator) / 2, torch.randn(2, m * d, generator=generator) / 2
    return raw, present, Quantiser(*books)


def naive(raw, present, primary, secondary, commitment):
    """The loss of METHOD 2 item by item, everything in autograd, with detach where it says sg."""
    total = 0.0
    for i in range(len(raw)):
        kept = [torch.nn.functional.normalize(raw[i, m], dim=0) for m in range(raw.shape[1]) if present[i, m]]
        stand_in = torch.nn.functional.normalize(torch.stack(kept).mean(0), dim=0)
        x = [torch.nn.functional.normalize(raw[i, m], dim=0) if present[i, m] else stand_in for m in range(raw.shape[1])]
        mean = torch.stack(x).mean(0)
        c1 = min(range(len(primary)), key=lambda k: float((mean - primary[k]).norm()))
        rest = torch.cat([v - primary[c1].detach() for v in x])
        c2 = min(range(len(secondary)), key=lambda k: float((rest - secondary[k]).norm()))
        for value, code in ((mean, primary[c1]), (rest, secondary[c2])):
            total = total + ((value.detach() - code) ** 2).sum() + commitment * ((value - code.detach()) ** 2).sum()
    return total


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_and_its_gradients_are_those_of_the_plain_form(seed):
    raw, present, quantiser = some_items(seed=seed)
    found = quantiser(*fill_missing(torch.nn.functional.normalize(raw, dim=-1), present))
    loss = (found.codebook_N + 0.25 * found.commitment_N).sum()
    books = [quantiser.books["primary"], quantiser.books["secondary"]]
    expected = naive(raw, present, *books, 0.25)
    torch.testing.assert_close(loss, expected)
    for one, other in zip(torch.autograd.grad(loss, [raw, *books]), torch.autograd.grad(expected, [raw, *books]), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_commitment_moves_no_codebook_and_the_codebook_term_moves_no_head():
    raw, present, quantiser = some_items()
    found = quantiser(*fill_missing(torch.nn.functional.normalize(raw, dim=-1), present))
    books = list(quantiser.parameters())
    assert torch.autograd.grad(found.commitment_N.sum(), books, allow_unused=True, retain_graph=True) == (None, None)
    assert torch.autograd.grad(found.codebook_N.sum(), [raw], allow_unused=True) == (None,)


def test_the_quantised_vectors_are_codes_forward_and_the_vectors_themselves_backward():
    raw, present, quantiser = some_items()
    filled, mean = fill_missing(torch.nn.functional.normalize(raw, dim=-1), present)
    found = quantiser(filled, mean)
    codes = quantiser.books["primary"][found.codes["primary"]].unsqueeze(1)
    codes = codes + quantiser.books["secondary"][found.codes["secondary"]].view_as(filled)
    torch.testing.assert_close(found.straight_NMD, codes)
    weights = torch.randn(filled.shape, generator=torch.Generator().manual_seed(9))
    one, other = (torch.autograd.grad((x * weights).sum(), raw, retain_graph=True)[0] for x in (found.straight_NMD, filled))
    torch.testing.assert_close(one, other)


def test_a_dead_code_is_put_between_a_current_vector_and_its_code_and_the_others_stay():
    book = torch.nn.Parameter(torch.arange(12.0).view(4, 3))
    optimizer = torch.optim.Adam([book])
    book.grad = torch.ones_like(book)
    optimizer.step()
    before, vectors = book.detach().clone(), torch.randn(5, 3)
    gone = dead(np.array([10, 0, 12, 1]), 0.1)
    assert gone.tolist() == [1], "1 is more than a tenth of the mean use of 5.75"
    assert reseed(book, gone, vectors, optimizer, np.random.default_rng(0)) == 1
    middle = before[torch.cdist(vectors, before).argmin(1)]
    assert torch.isclose(book[1], middle + 0.2 * (vectors - middle)).all(1).any()
    assert torch.equal(book[[0, 2, 3]], before[[0, 2, 3]])
    assert not optimizer.state[book]["exp_avg"][1].any()
    assert optimizer.state[book]["exp_avg"][0].all()


def test_more_dead_codes_than_vectors_are_revived_as_far_as_they_go():
    book = torch.nn.Parameter(torch.zeros(6, 3))
    assert reseed(book, np.arange(6), torch.ones(2, 3), torch.optim.Adam([book]), np.random.default_rng(0)) == 2
    assert int((book == 0.2).all(1).sum()) == 2


def test_in_many_dimensions_a_revived_code_takes_part_of_a_cell_and_not_only_one_vector():
    vectors = torch.nn.functional.normalize(torch.randn(2_000, 256, generator=torch.Generator().manual_seed(0)), dim=1)
    book = torch.nn.Parameter(torch.cat([torch.zeros(1, 256), torch.full((9, 256), 5.0)]))
    reseed(book, np.arange(1, 10), vectors, torch.optim.Adam([book]), np.random.default_rng(0))
    assert np.bincount(nearest_code(vectors, book.detach()).numpy(), minlength=10).min() > 20


def test_codes_that_nobody_uses_come_alive_in_training():
    random = torch.Generator().manual_seed(0)
    items = torch.nn.functional.normalize(torch.randn(64, 2, 8, generator=random), dim=-1)
    far = torch.cat([torch.randn(4, 8, generator=random) / 3, torch.full((4, 8), 50.0)])
    quantiser = Quantiser(far, torch.randn(3, 16, generator=random))
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    books = Books(VQConfig(dead_after=8), quantiser, optimizer, ALONE, seed=0)
    for _ in range(6):
        books.quantise(items, items.mean(1), np.zeros(64, np.int64))
        books.after_step()
    first = books.end_epoch()
    books.quantise(items, items.mean(1), np.zeros(64, np.int64))
    assert first["vq.reseeded"] >= 4
    assert books.end_epoch()["vq.primary.utilisation"] == 1


def test_utilisation_and_perplexity_of_known_counts():
    assert figures(np.array([5, 5, 0, 0])) == {"utilisation": 0.5, "perplexity": pytest.approx(2)}
    assert figures(np.zeros(3, np.int64)) == {"utilisation": 0, "perplexity": pytest.approx(1)}


def test_the_codebooks_start_as_k_means_of_the_vectors_as_they_are_aligned(tmp_path):
    text = unit(300, 8, 0)
    source = features(tmp_path, {"text": text, "behaviour": turned(text, 8, 1)}, {"behaviour": np.arange(300) % 3 > 0})
    config = VQConfig(num_primary=5, num_secondary=3)
    reader = Reader(source.table("vectors"), {"text": 8, "behaviour": 8}, 1_000)
    model = Aligner({"text": 8, "behaviour": 8}, 8, None, 0)
    align = Trainer(build(AlignConfig, {"dim": 8}), model, reader, 0, lambda *_: None, ALONE)._align
    placed = place_codebooks(config, reader, align, 300, ALONE, seed=0)
    rows = next(reader.windows()).rows
    with torch.no_grad():
        filled, mean = (x.numpy() for x in fill_missing(*align(rows)))
    primary = kmeans(mean, 5, config.kmeans, 0)
    np.testing.assert_allclose(placed.books["primary"].detach(), primary, atol=1e-6)
    rest = residuals(filled, nearest(mean, primary), primary)
    np.testing.assert_allclose(placed.books["secondary"].detach(), kmeans(rest, 3, config.kmeans, 0), atol=1e-6)


def three_views(n, k, seed=0):
    items, label = clustered(n, 24, k, seed)
    random = np.random.default_rng(seed)
    views = {"text": turned(items, 32, 1, 0.8), "image": turned(items, 20, 2, 1.6), "behaviour": turned(items, 24, 3, 1.6)}
    return views, {"image": random.random(n) < 0.75, "behaviour": random.random(n) < 0.5}, label


def test_natural_clusters_are_found_all_codes_are_used_and_the_bundle_says_so(tmp_path, capsys):
    views, coverage, label = three_views(2_000, 20)
    source = features(tmp_path, views, coverage)
    vq = {"num_primary": 20, "num_secondary": 6}
    bundle = run_stage(
        Align, tmp_path, {"features": source}, dim=24, batch_size=256, epochs=12, launch={"threads": 1}, codebooks="vq", vq=vq
    )
    primary, mean = codebook(bundle, "primary"), dense(bundle, "mean")
    assert bundle.table("codebook_primary").arrow().column("c1").to_pylist() == list(range(20))
    assert bundle.table("codebook_secondary").arrow().column("c2").to_pylist() == list(range(6))
    assert codebook(bundle, "secondary").shape == (6, 3 * 24)
    assert bundle.facts["codebooks"] == "vq"
    assert shared_information(label, nearest(mean, primary)) > 0.85
    figures = bundle.figures
    assert figures["best_epoch"] >= 5, "an epoch of the warm-up has no codebooks to keep"
    assert figures["vq.primary.utilisation"] > 0.9 < figures["vq.secondary.utilisation"]
    assert 10 < figures["vq.primary.perplexity"] <= 20
    assert figures["recall@10.text_to_image"] > 0.5
    # Heads and codebooks of one epoch: the codes fit the vectors that were written.
    distortion = np.square(mean - primary[nearest(mean, primary)]).sum(1).mean()
    again = kmeans(mean, 20, VQConfig().kmeans, 0)
    assert distortion < 1.2 * np.square(mean - again[nearest(mean, again)]).sum(1).mean()
    assert "primary codebook: 20 codes, 100.0% in use" in " ".join(capsys.readouterr().out.split())


def test_the_same_seed_gives_the_same_codebooks(tmp_path):
    views, coverage, _ = three_views(300, 5)
    source = features(tmp_path, views, coverage)
    keys = {
        "dim": 8,
        "epochs": 4,
        "batch_size": 64,
        "launch": {"threads": 1},
        "codebooks": "vq",
        "vq": {"warmup_epochs": 1, "quantised": 0.5},
    }
    one, other = (run_stage(Align, tmp_path, {"features": source}, seed=3, **keys) for _ in range(2))
    for level in ("primary", "secondary"):
        np.testing.assert_array_equal(codebook(one, level), codebook(other, level))
        assert np.isfinite(codebook(one, level)).all()


def test_codebooks_of_a_single_modality_are_trained_on_vectors_that_stay_as_they_are(tmp_path):
    items, label = clustered(600, 16, 10, 0)
    text = items / np.linalg.norm(items, axis=1, keepdims=True)
    vq = {"num_primary": 10, "num_secondary": 4}
    bundle = run_stage(
        Align, tmp_path, {"features": features(tmp_path, {"text": text})}, dim=16, epochs=6, launch={"threads": 1}, codebooks="vq", vq=vq
    )
    np.testing.assert_allclose(dense(bundle, "text"), text, atol=1e-6)
    assert shared_information(label, nearest(text, codebook(bundle, "primary"))) > 0.9
    assert codebook(bundle, "secondary").shape == (4, 16)


def constant(n):
    return np.tile(unit(1, 8, 1), (n, 1))


@pytest.mark.parametrize(
    ("other", "covered", "third"),
    [(constant(400), 1.0, False), (constant(400), 1.0, True), (turned(unit(400, 8, 0), 8, 5), 0.01, True), (unit(400, 8, 5), 0.01, False)],
    ids=["constant", "constant_of_three", "1_percent_of_three", "1_percent"],
)
def test_a_poor_modality_collapses_no_other(tmp_path, other, covered, third):
    text = unit(400, 8, 0)
    modalities = {"text": text, "image": other} | ({"behaviour": turned(text, 8, 2)} if third else {})
    source = features(tmp_path, modalities, {"image": np.arange(400) < 400 * covered})
    keys = {"dim": 8, "epochs": 8, "patience": 8, "batch_size": 64, "launch": {"threads": 1}, "codebooks": "vq", "vq": {"warmup_epochs": 2}}
    bundle = run_stage(Align, tmp_path, {"features": source}, **keys)
    aligned = dense(bundle, "text")
    assert all(np.isfinite(dense(bundle, name)).all() for name in [*modalities, "mean"])
    assert all(np.isfinite(codebook(bundle, level)).all() for level in ("primary", "secondary"))
    assert np.linalg.norm(aligned.mean(0)) < 0.5, "the text vectors still point everywhere"
    if covered == 1:
        assert bundle.figures["recall@10.text_to_image"] == 0
    if third:
        assert bundle.figures["recall@10.text_to_behaviour"] > 0.8


def test_items_that_are_all_identical_give_finite_vectors_and_codebooks(tmp_path):
    source = features(tmp_path, {"text": constant(200), "behaviour": constant(200)})
    keys = {"dim": 8, "epochs": 4, "batch_size": 64, "launch": {"threads": 1}, "codebooks": "vq", "vq": {"warmup_epochs": 1}}
    bundle = run_stage(Align, tmp_path, {"features": source}, **keys)
    assert np.isfinite(dense(bundle, "mean")).all()
    for level in ("primary", "secondary"):
        assert np.isfinite(codebook(bundle, level)).all()
    assert bundle.figures["vq.primary.perplexity"] < 2


def test_too_few_items_for_the_codebooks_are_refused_before_any_epoch(tmp_path):
    source = features(tmp_path, {"text": unit(50, 8, 0), "behaviour": unit(50, 8, 1)})
    with pytest.raises(DataError, match=r"50 items have a vector, and 3 primaries of at least 20 items need 60"):
        run_stage(Align, tmp_path, {"features": source}, dim=8, codebooks="vq")


def test_a_warm_up_that_leaves_no_epoch_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"vq\.warmup_epochs = 5 leaves none of epochs = 5 to train the codebooks"):
        build(AlignConfig, {"codebooks": "vq", "epochs": 5})
