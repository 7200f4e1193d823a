from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse

from esans.features.projection import fit_svd, project, random_projection, sample_rows, to_csr, unit_rows


def rows(n: int, width: int, seed: int = 0) -> pa.Table:
    random = np.random.default_rng(seed)
    columns = [sorted(random.choice(width, size=int(size), replace=False).tolist()) for size in random.integers(0, 5, n)]
    weights = [random.random(len(row)).astype(np.float32).tolist() for row in columns]
    return pa.table(
        {
            "item_idx": pa.array(range(n), pa.int64()),
            "columns": pa.array(columns, pa.list_(pa.int32())),
            "weights": pa.array(weights, pa.list_(pa.float32())),
        }
    )


def test_repeated_columns_add_up():
    matrix = to_csr(pa.array([[1, 1, 0], [], [2]], pa.list_(pa.int32())), None, 3)
    np.testing.assert_array_equal(matrix.toarray(), [[1, 2, 0], [0, 0, 0], [0, 0, 1]])


def test_svd_keeps_everything_where_the_rank_allows_it():
    random = np.random.default_rng(0)
    matrix = sparse.csr_matrix((random.standard_normal((60, 4)) @ random.standard_normal((4, 30))).astype(np.float32))
    projection, kept = fit_svd(matrix, 8, seed=1)
    assert kept == pytest.approx(1, abs=1e-4)
    assert (projection[:, 4:] == 0).all()


def test_projection_in_spark_equals_numpy_and_a_row_without_columns_has_no_vector(spark):
    table = rows(200, 40)
    projection = random_projection(40, 8, seed=0)
    found = project(spark.createDataFrame(table), projection, unit_rows, weighted=True).toArrow().sort_by("item_idx")
    dense = unit_rows(to_csr(table.column("columns").combine_chunks(), table.column("weights").combine_chunks(), 40)).toarray() @ projection
    for item, vector in zip(found.column("item_idx").to_pylist(), found.column("vector").to_pylist(), strict=True):
        assert (vector is None) == (not table.column("columns")[item].as_py())
        if vector is not None:
            np.testing.assert_allclose(vector, dense[item], atol=1e-5)


def test_a_sample_is_bounded_and_the_same_however_the_rows_are_partitioned(spark):
    frame = spark.createDataFrame(rows(3_000, 40))
    one = sample_rows(frame.repartition(1), 3_000, 300, seed=5)
    many = sample_rows(frame.repartition(7), 3_000, 300, seed=5)
    assert one.equals(many)
    assert 200 < one.num_rows < 400
