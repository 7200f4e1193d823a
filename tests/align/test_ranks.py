"""Several processes: the same batches, the same loss curve and the same result as one (contracts 5 and 7)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from esans.align.batches import Draw
from esans.align.loss import info_nce
from esans.align.ranks import Ranks
from esans.align.reader import Reader, concatenate
from esans.align.stage import Align
from esans.align.worker import Fitted, WorkerSpec
from esans.config import build, to_dict
from esans.errors import BundleError
from esans.launch import LaunchConfig, LaunchFailed, launch
from esans.petastorm_reader import read_vectors
from esans.settings import Settings
from tests.align.clouds import codebook, dense, features, turned, unit
from tests.features.helpers import run_stage

KEYS = {"dim": 8, "epochs": 4, "batch_size": 50, "buffer_items": 120, "launch": {"threads": 1}}
VQ = {"codebooks": "vq", "vq": {"num_primary": 6, "num_secondary": 3, "warmup_epochs": 1, "dead_after": 5, "dead_below": 0.5}}


def views(n=330):
    text, random = unit(n, 8, 0), np.random.default_rng(3)
    coverage = {"text": random.random(n) < 0.9, "image": random.random(n) < 0.6}
    return {"text": text, "image": turned(text, 6, 1, 0.3), "behaviour": turned(text, 8, 2, 0.3)}, coverage


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_rank_gets_every_window_with_its_own_rows_and_together_they_hold_each_item_once(tmp_path, world_size):
    table = features(tmp_path, *views(), files=5).table("vectors")
    lengths = {"text": 8, "image": 6, "behaviour": 8}
    readers = [Reader(table, lengths, 100, rank, world_size) for rank in range(world_size)]
    for seed in (None, (0, 1), (0, 2)):
        by_rank = [list(reader.windows(seed)) for reader in readers]
        assert [[window.size for window in windows] for windows in by_rank] == [[100, 100, 100, 30]] * world_size
        for windows in zip(*by_rank, strict=True):
            assert sorted(np.concatenate([window.place for window in windows])) == list(range(windows[0].size))
        items = np.concatenate([concatenate([window.rows for window in windows]).item for windows in by_rank])
        assert sorted(items) == list(range(330))
    alone = concatenate([window.rows for window in Reader(table, lengths, 100).windows()])
    assert alone.item.tolist() == list(range(330))
    shuffled = concatenate([window.rows for window in Reader(table, lengths, 100).windows((0, 1))])
    assert shuffled.item.tolist() != alone.item.tolist()
    order = np.argsort(shuffled.item)
    assert all((one[order] == other).all() for one, other in zip(shuffled.vectors, alone.vectors, strict=True))


class Told(Ranks):
    """A rank whose sums are known beforehand: what all ranks together would say."""

    def __init__(self, rank, world_size, sums):
        super().__init__(rank, world_size, torch.device("cpu"))
        self.sums = iter(sums)

    def sum(self, values):
        return next(self.sums)


@pytest.mark.parametrize("world_size", [2, 3])
def test_a_batch_holds_the_items_that_one_process_would_put_there(tmp_path, world_size):
    table, lengths = features(tmp_path, *views(), files=7).table("vectors"), {"text": 8, "image": 6, "behaviour": 8}
    draw = Draw(fewest=2, validation_share=0.1, batch_size=32, seed=5)
    alone = [batch.rows.item for batch in draw.epoch(Reader(table, lengths, 150), Ranks(0, 1, torch.device("cpu")), 1)]
    heard = [[] for _ in range(world_size)]
    for rank in range(world_size):

        class Listening(Ranks):
            def sum(self, values, mine=heard[rank]):
                mine.append(values.copy())
                return values

        list(draw.epoch(Reader(table, lengths, 150, rank, world_size), Listening(rank, world_size, torch.device("cpu")), 1))
    sums = [sum(parts) for parts in zip(*heard, strict=True)]
    by_rank = [
        list(draw.epoch(Reader(table, lengths, 150, rank, world_size), Told(rank, world_size, sums), 1)) for rank in range(world_size)
    ]
    assert {len(batches) for batches in by_rank} == {len(alone)}, "all ranks take the same number of steps"
    for items, parts in zip(alone, zip(*by_rank, strict=True), strict=True):
        together = np.empty(len(items), np.int64)
        for rank, part in enumerate(parts):
            together[part.whose == rank] = part.rows.item
        assert (together == items).all()


def test_the_shares_of_the_ranks_add_up_to_the_loss_of_the_whole_batch_and_so_do_their_gradients():
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(20, 3, 4, generator=generator, requires_grad=True)
    present, owner = torch.rand(20, 3, generator=generator) < 0.7, torch.randint(3, (20,), generator=generator)
    aligned = torch.nn.functional.normalize(raw, dim=-1)
    whole = info_nce(aligned, present, 0.1)
    shares = torch.stack([info_nce(aligned, present, 0.1, owner == rank) for rank in range(3)]).sum()
    torch.testing.assert_close(whole, shares)
    gradients = [torch.autograd.grad(loss, raw, retain_graph=True)[0] for loss in (whole, shares)]
    torch.testing.assert_close(*gradients)


def test_two_processes_give_the_loss_curve_the_heads_and_the_codebooks_of_one(tmp_path):
    source = features(tmp_path, *views(), files=5)
    one = run_stage(Align, tmp_path, {"features": source}, **KEYS, **VQ)
    two = run_stage(Align, tmp_path, {"features": source}, **{**KEYS, "launch": {"processes": 2, "threads": 1}}, **VQ)
    curves = [Fitted.read(f"{bundle.uri}/scratch").curve for bundle in (one, two)]
    np.testing.assert_allclose(curves[1].loss, curves[0].loss, atol=1e-5, rtol=0)
    assert curves[1].recalls == curves[0].recalls
    assert curves[1].best == curves[0].best
    heads = [torch.load(f"{bundle.data_uri.removeprefix('file://')}/heads.pt", weights_only=True) for bundle in (one, two)]
    for name, weight in heads[0].items():
        torch.testing.assert_close(heads[1][name], weight, atol=1e-4, rtol=0)
    np.testing.assert_allclose(dense(two, "mean"), dense(one, "mean"), atol=1e-4)
    for level in ("primary", "secondary"):
        np.testing.assert_allclose(codebook(two, level), codebook(one, level), atol=1e-4)
    assert sum(found.get("vq.reseeded", 0) for found in curves[0].books) > 0, "the ranks agreed on which codes to move where"


def work(spec_json):
    """What each rank of the next test runs: fit, and keep what this rank holds."""
    import json

    from esans.align.config import AlignConfig
    from esans.align.trainer import Trainer
    from esans.align.worker import build_model, modality_lengths
    from esans.bundle import Bundle
    from esans.launch import joined

    spec = json.loads(spec_json)
    config = build(AlignConfig, spec["config"])
    with joined(config.launch, "align.launch") as process:
        bundle = Bundle.open(spec["features"])
        lengths = modality_lengths(bundle)
        reader = Reader(bundle.table("vectors"), lengths, config.buffer_items, process.rank, process.world_size)
        ranks, model = Ranks(process.rank, process.world_size, process.device), build_model(config, lengths, 0)
        trainer = Trainer(config, model, reader, 0, lambda *_: None, ranks)
        curve = trainer.fit()
        books = dict(trainer.books.quantiser.books)
        Fitted(model.state_dict(), {name: book.detach() for name, book in books.items()}, curve).write(f"{spec['out']}/{process.rank}")


def test_heads_codebooks_and_curve_are_equal_on_all_ranks_even_where_one_has_no_file(tmp_path):
    import json

    config = build(Settings, {"align": {**KEYS, **VQ, "epochs": 2, "launch": {"processes": 2, "threads": 1}}}).align
    spec = {"config": to_dict(config), "features": features(tmp_path, *views()).uri, "out": str(tmp_path / "ranks")}
    launch("tests.align.test_ranks:work", json.dumps(spec), config.launch, str(tmp_path / "scratch"), None)
    ranks = [Fitted.read(str(tmp_path / "ranks" / str(rank))) for rank in range(2)]
    for other in ranks[1:]:
        assert all(torch.equal(other.heads[name], weight) for name, weight in ranks[0].heads.items())
        assert all(torch.equal(other.books[level], book) for level, book in ranks[0].books.items())
        assert other.curve == ranks[0].curve


def test_a_failing_process_fails_the_stage_and_another_world_size_is_refused(tmp_path, capfd):
    spec = WorkerSpec(to_dict(build(Settings, {"align": KEYS}).align), str(tmp_path / "nowhere"), str(tmp_path), 0, "", "")
    with pytest.raises(LaunchFailed, match=r"^alignment ended with exit code 1; the first error of a rank stands above\.$"):
        launch("esans.align.worker:run_worker", spec.dump(), LaunchConfig(processes=2, threads=1), str(tmp_path), None, what="alignment")
    assert "align.launch.processes = 1, but 2 processes were started: set --align.launch.processes=2." in capfd.readouterr().err


def test_vectors_that_are_null_or_of_another_length(tmp_path):
    uris = features(tmp_path, {"text": unit(4, 3, 0)}, {"text": np.array([True, False, False, True])}).table("vectors").file_uris
    ((item, (vectors,), present),) = read_vectors(uris, "item_idx", {"text": 3})
    assert item.tolist() == [0, 1, 2, 3]
    assert present[:, 0].tolist() == [True, False, False, True]
    np.testing.assert_array_equal(vectors, unit(4, 3, 0) * present)
    with pytest.raises(BundleError, match="column 'text' has vectors whose length is not 5"):
        list(read_vectors(uris, "item_idx", {"text": 5}))
