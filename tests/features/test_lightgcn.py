from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.nn.models import LightGCN

from esans.config import build as configure
from esans.features.adjacency import build
from esans.features.config import LightGcnConfig
from esans.features.contrast import Contrast, held_out, info_nce
from esans.features.item_table import ItemTable
from esans.features.propagation import Propagation, infer
from esans.features.sampling import draw_neighbours, neighbourhoods, pairs
from esans.features.warm_rows import start_from

CPU = torch.device("cpu")
seeds = st.integers(0, 2**31)


def edges(num_items: int, seed: int) -> list[tuple[int, int, float]]:
    """A random graph whose last item has no edge."""
    random = np.random.default_rng(seed)
    chosen = random.random((num_items, num_items)) < 0.4
    chosen[-1], chosen[:, -1] = False, False
    np.fill_diagonal(chosen, False)
    chosen[0, 1] = True
    return [(int(i), int(j), float(np.float32(random.random() + 0.1))) for i, j in np.argwhere(chosen)]


def on_disk(rows, num_items, folder, pieces=2):
    folder.mkdir(exist_ok=True)
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    types = (pa.int64(), pa.int64(), pa.float32())
    parts = np.array_split(np.arange(len(rows)), pieces)
    batches = [
        pa.RecordBatch.from_arrays([pa.array(column[part], type) for column, type in zip(columns, types, strict=True)], ["i", "j", "s"])
        for part in parts
    ]
    return build(lambda: batches, num_items, len(rows), folder)


@settings(deadline=None, max_examples=25)
@given(seed=seeds, pieces=st.integers(1, 6))
def test_the_graph_on_disk_is_the_table_in_whatever_order_its_rows_come(tmp_path_factory, seed, pieces):
    folder = tmp_path_factory.mktemp("graph")
    rows = edges(9, seed)
    shuffled = [rows[place] for place in np.random.default_rng(seed).permutation(len(rows))]
    graph = on_disk(shuffled, 9, folder / "a", pieces)
    row, neighbour, weight = graph.edges(0, 9)
    assert list(zip(row.tolist(), neighbour.tolist(), weight.tolist(), strict=True)) == sorted(rows)
    assert sum(stop - start for start, stop in graph.slices(5)) == 9
    np.testing.assert_allclose(graph.in_degree, np.bincount([j for _, j, _ in rows], [w for *_, w in rows], minlength=9))
    again = on_disk(rows, 9, folder / "b")
    assert all(np.array_equal(getattr(graph, name), getattr(again, name)) for name in ("indptr", "weights", "out_degree", "in_degree"))


def test_whole_neighbourhoods_give_lightgcn_of_torch_geometric(tmp_path):
    rows = edges(12, 3)
    graph = on_disk(rows, 12, tmp_path)
    table = ItemTable(12, 5, tmp_path, seed=0, learning_rate=0.1)
    propagation = Propagation(2)
    found = infer(graph, table.weight, propagation, tmp_path, CPU)
    target, source, weight = (torch.tensor(column) for column in zip(*rows, strict=True))
    norm = (weight / np.sqrt(graph.out_degree[target] * graph.in_degree[source])).float()
    theirs = LightGCN(12, 5, 2, normalize=False)
    theirs.embedding.weight.data = torch.tensor(np.array(table.weight))
    expected = theirs.get_embedding(torch.stack([source, target]), norm).detach()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    items = np.array([7, 2, 11])
    blocks = neighbourhoods(graph, items, 2, None, np.random.default_rng(0))
    mine = propagation(table.rows(blocks[0].nodes, CPU), blocks).detach()
    np.testing.assert_allclose(mine, expected[items], atol=1e-6)


def test_drawn_neighbourhoods_are_bounded_and_right_on_average(tmp_path):
    graph = on_disk(edges(12, 4), 12, tmp_path)
    table = np.random.default_rng(0).standard_normal((12, 3)).astype(np.float32)
    exact = infer(graph, table, propagation := Propagation(1), tmp_path, CPU)
    items, random, total = np.arange(12), np.random.default_rng(1), np.zeros((12, 3))
    for _ in range(1_500):
        (block,) = neighbourhoods(graph, items, 1, 2, random)
        assert np.bincount(block.target).max() <= 2
        total += propagation(torch.from_numpy(table[block.nodes]), [block]).numpy()
    np.testing.assert_allclose(total / 1_500, exact, atol=0.08)


def test_neighbours_and_pairs_are_drawn_with_the_chances_that_the_correction_assumes(tmp_path):
    graph = on_disk(edges(8, 5), 8, tmp_path)
    random = np.random.default_rng(2)
    first, second = pairs(graph, count := np.arange(8) * 3, tmp_path).draw(40_000, random)
    linked = np.diff(graph.indptr) > 0
    chance = np.where(linked, np.sqrt(np.maximum(count, 1)), 0)
    np.testing.assert_allclose(np.bincount(first, minlength=8) / 40_000, chance / chance.sum(), atol=0.01)
    log_chance = pairs(graph, count, tmp_path).log_chance
    np.testing.assert_allclose(np.bincount(second, minlength=8) / 40_000, np.exp(log_chance), atol=0.01)
    _, neighbour, weight = graph.edges(0, 1)
    found = np.bincount(draw_neighbours(graph, np.zeros(40_000, np.int64), random), minlength=8) / 40_000
    np.testing.assert_allclose(found[neighbour], weight / weight.sum(), atol=0.01)


def test_a_step_moves_the_rows_it_used_and_no_other(tmp_path):
    table = ItemTable(6, 4, tmp_path, seed=1, learning_rate=0.5)
    before = np.array(table.weight)
    rows = table.rows(np.array([4, 1]), CPU)
    (rows * torch.tensor([[1.0], [-2.0]])).sum().backward()
    table.update(np.array([4, 1]), rows)
    moved = np.array(table.weight) - before
    np.testing.assert_allclose(moved[[4, 1]], [[-0.5] * 4, [0.5] * 4], rtol=1e-5)
    assert (moved[[0, 2, 3, 5]] == 0).all()


def test_the_loss_estimates_the_softmax_over_all_items_whatever_their_popularity():
    random = np.random.default_rng(0)
    vectors = torch.nn.functional.normalize(torch.from_numpy(random.standard_normal((40, 4))), dim=1)
    chance = torch.from_numpy(random.dirichlet(np.full(40, 0.5)) + 1e-3)
    chance /= chance.sum()
    query = vectors[0]
    losses = []
    for _ in range(100):
        second = torch.from_numpy(random.choice(40, 256, p=chance.numpy()))
        second[0] = 1
        first = torch.full((256,), 41)  # an item of its own, so that no second one is masked for it
        left = query.expand(256, -1)
        scores = info_nce(left, vectors[second], (first, second), chance.log()[second], 0.5)
        losses.append(float(scores + (vectors[second] @ query / 0.5).mean()))
    # A row leaves its positive out of the draws, so its sum runs over the other items and the positive itself.
    assert np.mean(losses) == pytest.approx(float(torch.logsumexp(query @ vectors.T / 0.5, 0)), abs=0.2)


@settings(deadline=None, max_examples=25)
@given(seed=seeds)
def test_a_pair_is_held_out_in_both_directions_or_in_none(seed):
    random = np.random.default_rng(seed)
    first, second = random.integers(0, 1_000, 2_000), random.integers(0, 1_000, 2_000)
    found = held_out(first, second, 1_000, 0.1, seed)
    assert (found == held_out(second, first, 1_000, 0.1, seed)).all()
    assert 0.05 < found.mean() < 0.15


def two_circles(folder, seed=0, **keys):
    """Two groups of items without an edge between them, trained."""
    rows = [(i, j, 1.0) for group in (0, 20) for i in range(group, group + 20) for j in range(group, group + 20) if 0 < (i - j) % 20 < 4]
    graph = on_disk(rows, 40, folder)
    table = ItemTable(40, 8, folder, seed, 0.1)
    config = configure(LightGcnConfig, {"batch_size": 64, "epochs": 8, "fan_out": 2, "patience": 20, **keys})
    contrast = Contrast(config, pairs(graph, np.ones(40), folder), table, seed, CPU)
    curve = contrast.fit()
    vectors = np.array(infer(graph, table.weight, contrast.propagation, folder, CPU))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), curve


def test_training_parts_what_the_graph_parts_and_the_same_seed_gives_the_same_bits(tmp_path):
    vectors, curve = two_circles(tmp_path / "a")
    cosines = vectors @ vectors.T
    assert cosines[:20, :20].mean() > cosines[:20, 20:].mean() + 0.1
    assert curve.loss[-1] < curve.loss[0]
    assert vectors.tobytes() == two_circles(tmp_path / "b")[0].tobytes()
    assert vectors.tobytes() != two_circles(tmp_path / "c", seed=1)[0].tobytes()


def test_training_stops_when_held_out_pairs_get_no_better(tmp_path):
    _, curve = two_circles(tmp_path, epochs=200, patience=1, held_out_share=0.2)
    assert len(curve.loss) < 200
    assert curve.held_out[-1] >= min(curve.held_out)


def test_without_held_out_pairs_all_epochs_run(tmp_path):
    _, curve = two_circles(tmp_path, epochs=3, patience=1, held_out_share=0, layers=0)
    assert len(curve.loss) == 3
    assert all(map(math.isnan, curve.held_out))


def test_a_table_goes_on_from_an_earlier_one_and_new_items_begin_among_their_neighbours(tmp_path):
    rows = [(0, 1, 1.0), (1, 0, 1.0), (3, 0, 3.0), (3, 1, 1.0), (4, 3, 1.0)]
    graph = on_disk(rows, 6, tmp_path)
    table = ItemTable(6, 4, tmp_path, seed=0, learning_rate=0.1)
    drawn, earlier = table.weight.copy(), np.arange(12, dtype=np.float32).reshape(3, 4)
    batch = pa.RecordBatch.from_arrays(
        [pa.array([0, 1, 2]), pa.array(list(earlier), pa.list_(pa.float32())), pa.array([1, 2, 3], pa.float32())], ["i", "r", "s"]
    )
    assert start_from(table, graph, [batch]) == 4
    np.testing.assert_array_equal(table.weight[:3], earlier)
    np.testing.assert_array_equal(table.squares, [1, 2, 3, 0, 0, 0])
    np.testing.assert_allclose(table.weight[3], (3 * earlier[0] + earlier[1]) / 4)
    # Item 4 knows only item 3, which is new itself, and item 5 nobody.
    np.testing.assert_array_equal(table.weight[4:], drawn[4:])


def test_a_fit_that_began_elsewhere_is_put_back_where_it_makes_held_out_pairs_no_likelier(tmp_path):
    rows = edges(40, 1)
    graph = on_disk(rows, 40, tmp_path)
    for losses, taken_back in (([5.0, 5.1], True), ([5.0, 4.9, 4.8, 4.7], False)):
        folder, watched = tmp_path / str(taken_back), iter(losses)
        folder.mkdir()
        table = ItemTable(40, 8, folder, seed=0, learning_rate=0.05)
        before = table.weight.copy()
        contrast = Contrast(configure(LightGcnConfig, {"epochs": 3}), pairs(graph, np.ones(40, np.int64), folder), table, 0, CPU)
        contrast._watch = lambda batches, watched=watched: next(watched)
        curve = contrast.fit(began=True)
        assert curve.taken_back == taken_back
        assert np.array_equal(table.weight, before) == taken_back
