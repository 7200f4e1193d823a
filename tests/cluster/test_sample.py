from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esans.cluster.assign import assign_codes, count_primaries
from esans.cluster.sample import chosen, draw_sample
from esans.cluster.scan import Source, mean_of
from esans.codebooks.codebook import Codebooks, Primaries
from esans.table import DataFile, Table


@settings(deadline=None)
@given(n=st.integers(1, 50), modalities=st.integers(1, 4), seed=st.integers(0, 100))
def test_the_mean_is_that_of_the_modalities(n, modalities, seed):
    vectors = np.random.default_rng(seed).standard_normal((n, modalities, 3)).astype(np.float32)
    found = mean_of(vectors)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, vectors.mean(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 1.0])
def test_about_the_share_is_chosen_whatever_the_company_and_another_seed_chooses_others(share):
    item = np.arange(200_000)
    found = chosen(item, share, 3)
    assert abs(found.mean() - share) < 0.005
    np.testing.assert_array_equal(chosen(item[::7], share, 3), found[::7])
    if 0 < share < 1:
        assert abs((found & chosen(item, share, 4)).mean() - share**2) < 0.005


def cut(folder, item, vectors, files, rows_per_group):
    """The same rows in so many files."""
    folder.mkdir()
    parts = []
    for number, rows in enumerate(np.array_split(np.arange(len(item)), files)):
        columns = {name: pa.array(vectors[rows, place].tolist(), pa.list_(pa.float32())) for place, name in enumerate(("text", "image"))}
        pq.write_table(pa.table({"item_idx": item[rows], **columns}), folder / f"{number}.parquet", row_group_size=rows_per_group)
        parts.append(DataFile(f"{number}.parquet", len(rows), 0))
    return Source.of(Table(f"file://{folder}", "", parts), ("text", "image"))


def test_sample_sizes_and_codes_are_the_same_however_the_table_is_cut(spark, tmp_path):
    random = np.random.default_rng(0)
    item, vectors = random.permutation(500), random.standard_normal((500, 2, 4)).astype(np.float32)
    one, many = cut(tmp_path / "one", item, vectors, 1, 500), cut(tmp_path / "many", item, vectors, 3, 40)
    assert (len(one.units), len(many.units)) == (1, 15)
    books = Codebooks(Primaries.plain(random.standard_normal((9, 4))), random.standard_normal((3, 8)).astype(np.float32))
    c1, c2 = books.assign(item, vectors, mean_of(vectors))
    for source in (one, many):
        sample = draw_sample(spark, source, 100, 1, f"file://{tmp_path}/sample")
        wanted = np.sort(item[chosen(item, 0.2, 1)])
        place = np.argsort(item)[wanted]
        np.testing.assert_array_equal(sample.item, wanted)
        np.testing.assert_array_equal(sample.vectors, vectors[place])
        np.testing.assert_array_equal(sample.mean, mean_of(vectors[place]))
        assert not (tmp_path / "sample").exists()
        np.testing.assert_array_equal(count_primaries(spark, source, books.primaries, 64), np.bincount(c1, minlength=9))
        found = assign_codes(spark, source, books, 500, 64).toArrow().sort_by("item_idx")
        np.testing.assert_array_equal(found.column("c1").to_numpy(), c1[np.argsort(item)])
        np.testing.assert_array_equal(found.column("c2").to_numpy(), c2[np.argsort(item)])
