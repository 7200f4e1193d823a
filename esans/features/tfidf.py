"""Encoder `tfidf`: hashed words, inverse document frequency, and a projection to a short vector; nothing is downloaded.

The arithmetic is pyspark.ml's HashingTF and IDF, but rows stay plain arrays: an ML vector column would have to be made
dense (65,536 floats an item) to reach numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from esans.columns import ITEM_IDX
from esans.features.projection import COLUMNS, fit_svd, project, random_projection, sample_rows, to_csr, unit_rows
from esans.features.registry import Encoded, Job
from esans.features.source import text_of

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

_NO_WORD = r"[^\p{L}\p{N}]+"


class TfIdfWeights:
    """Sparse counts -> (1 + log tf) x idf with unit rows; sent to the workers."""

    def __init__(self, idf: np.ndarray) -> None:
        self.idf = idf

    def __call__(self, counts: sparse.csr_matrix) -> sparse.csr_matrix:
        """(n, buckets) counts -> (n, buckets) weights; words without weight are dropped."""
        weights = counts.copy()
        weights.data = ((1 + np.log(counts.data)) * self.idf[counts.indices]).astype(np.float32)
        weights.eliminate_zeros()
        return unit_rows(weights)


def encode(items: DataFrame, config: Any, job: Job) -> Encoded:
    """Vectors of `text`, or of `title` where an item has no text.

    Raises:
        DataError: prepare mapped neither a text nor a title column.
    """
    from pyspark import StorageLevel
    from pyspark.sql import functions as F

    settings = config.tfidf
    rows = items.select(ITEM_IDX, _terms(text_of(items), settings.ngrams, settings.buckets).alias(COLUMNS))
    rows = rows.where(F.size(COLUMNS) > 0).persist(StorageLevel.DISK_ONLY)
    total = rows.count()
    weigh = TfIdfWeights(_idf(rows, total, settings.buckets, settings.min_items))
    figures = {"text.words": float((weigh.idf > 0).sum())}
    if settings.projection == "random":
        projection = random_projection(settings.buckets, config.dim, job.seed)
    else:
        sample = sample_rows(rows, total, settings.max_fit_items, job.seed)
        matrix = weigh(to_csr(sample.column(COLUMNS).combine_chunks(), None, settings.buckets))
        projection, kept = fit_svd(matrix, config.dim, job.seed)
        figures["text.svd_kept"] = kept
    return Encoded(project(rows, projection, weigh, weighted=False), config.dim, figures)


def _terms(source: Column, ngrams: int, buckets: int) -> Column:
    from pyspark.sql import functions as F

    words = F.filter(F.split(F.lower(source), _NO_WORD), lambda word: F.length(word) > 0)
    runs = words
    for length in range(2, ngrams + 1):
        starts = F.sequence(F.lit(1), F.size(words) - (length - 1))
        joined = F.transform(starts, lambda start, n=length: F.array_join(F.slice(words, start, n), " "))
        runs = F.concat(runs, F.when(F.size(words) >= length, joined).otherwise(F.array().cast("array<string>")))
    return F.transform(runs, lambda run: F.pmod(F.xxhash64(run), F.lit(buckets)).cast("int"))


def _idf(rows: DataFrame, total: int, buckets: int, min_items: int) -> np.ndarray:
    """(buckets,) float32 log((1 + n) / (1 + df)) + 1, and 0 below `min_items`; at most `buckets` numbers reach the driver."""
    from pyspark.sql import functions as F

    counted = rows.select(F.explode(F.array_distinct(COLUMNS)).alias("term")).groupBy("term").count().toArrow()
    frequency = np.zeros(buckets)
    frequency[counted.column("term").to_numpy()] = counted.column("count").to_numpy()
    idf = np.log((1 + total) / (1 + frequency)) + 1
    return np.where(frequency >= min_items, idf, 0).astype(np.float32)
