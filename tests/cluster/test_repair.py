from __future__ import annotations

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esans.cluster.config import ClusterConfig
from esans.cluster.repair import Repair, Sample
from esans.codebooks.codebook import Primaries
from esans.codebooks.kmeans import kmeans
from esans.config import build
from esans.errors import DataError

# Fits of a few hundred points gain nothing from threads, and lose much where tests share the machine.
faiss.omp_set_num_threads(1)


def points(kind: str, n: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    spread = random.standard_normal((n, 4)).astype(np.float32)
    if kind == "identical":
        spread[:] = 1
    elif kind == "one natural cluster":
        spread[: n * 9 // 10] = spread[0] + 0.01 * spread[: n * 9 // 10]
    elif kind == "mostly equal":
        spread[: n * 8 // 10] = 0.5
    elif kind == "two values":
        spread[:] = (np.arange(n) % 2)[:, None]
    return spread


def repaired(mean: np.ndarray, config: ClusterConfig, seed: int = 0, share: float = 1.0) -> tuple[Primaries, np.ndarray, Repair]:
    n, item = len(mean), np.arange(len(mean))
    sizes = config.sizes(n)
    part = np.random.default_rng(seed).random(n) < share
    repair = Repair(Sample(item[part], mean[part][:, None], mean[part]), sizes, config, seed)
    start = Primaries.plain(kmeans(mean[part], sizes.primary, config.kmeans, seed))
    book = repair.run(start, lambda book: np.bincount(book.assign(item, mean), minlength=len(book)))
    return book, np.bincount(book.assign(item, mean), minlength=len(book)), repair


@settings(deadline=None, max_examples=20)
@given(
    kind=st.sampled_from(["spread", "identical", "one natural cluster", "mostly equal", "two values"]),
    n=st.integers(150, 900),
    k=st.none() | st.integers(3, 60),
    seed=st.integers(0, 1000),
)
def test_every_primary_holds_the_least_size_and_none_is_above_five_times_the_mean(kind, n, k, seed):
    config = build(ClusterConfig, {"num_primary": k, "kmeans": {"iterations": 5}})
    book, sizes, _ = repaired(points(kind, n, seed), config, seed)
    assert sizes.sum() == n
    assert sizes.min() >= 20
    assert sizes.max() <= 5 * sizes.mean()
    assert len(book) >= 3


def test_sizes_hold_over_all_items_when_only_a_few_were_sampled():
    _, sizes, _ = repaired(points("one natural cluster", 5_000, 0), ClusterConfig(), share=0.05)
    assert sizes.min() >= 20
    assert sizes.max() <= 5 * sizes.mean()


def test_what_needs_no_repair_is_left_alone():
    corners = np.repeat(np.eye(4, dtype=np.float32), 60, axis=0)
    mean = corners + 0.01 * np.random.default_rng(0).standard_normal(corners.shape).astype(np.float32)
    book, sizes, repair = repaired(mean, build(ClusterConfig, {"num_primary": 4}))
    assert sorted(sizes) == [60] * 4
    assert repair.done.rounds == 0
    assert (book.penalty == 0).all()


def test_identical_items_are_shared_out_and_the_report_says_so():
    book, sizes, repair = repaired(points("identical", 1_000, 0), ClusterConfig())
    assert repair.done.shared_out > 0
    assert len(sizes) == 16
    assert len(book.choices) == 1


def test_too_few_items_say_what_to_lower():
    with pytest.raises(DataError) as error:
        ClusterConfig().sizes(1)
    assert str(error.value) == (
        "cluster: 1 items have a vector, and 3 primaries of at least 20 items need 60.\n"
        "Lower cluster.min_cluster_size (and m_c, m_o, n_h), or bring more items; methods without clusters need none of this."
    )


@settings(deadline=None)
@given(n=st.integers(60, 10_000_000), k=st.none() | st.integers(3, 5_000))
def test_the_rule_leaves_room_for_the_least_size(n, k):
    sizes = build(ClusterConfig, {"num_primary": k}).sizes(n)
    assert sizes.primary >= 3
    assert sizes.primary * 20 <= n
    assert 2 <= sizes.secondary <= 256
    assert k is None or sizes.primary <= max(k, 3)


def test_ten_million_items_get_about_three_thousand_primaries():
    sizes = ClusterConfig().sizes(10_000_000)
    assert (sizes.primary, sizes.secondary) == (3162, 56)
