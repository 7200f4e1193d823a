"""Assign items to codes in Spark, and with faiss in a bare loop over the same vectors in memory; one run, one machine.

python -m benchmarks.assign --items 1000000     prints items/s of each and their ratio; writes benchmarks/figures.json
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.figures import record
from esans.cluster.assign import assign_codes
from esans.cluster.build import on_disk
from esans.cluster.sample import draw_sample
from esans.cluster.scan import Source, mean_of
from esans.codebooks.codebook import Codebooks, Primaries, residuals
from esans.codebooks.config import KMeansConfig
from esans.codebooks.kmeans import kmeans
from esans.columns import ITEM_IDX, MEAN, PRESENT, PRIMARY, SECONDARY
from esans.spark import SparkConfig, open_session
from esans.table import DataFile, Table

MODALITIES = ("text", "image", "behaviour")
DIM, ROWS_PER_FILE, ROWS_PER_GROUP = 128, 262_144, 8_192


def main() -> None:
    """Generate, fit on a sample, assign twice, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--primary", type=int, default=1_000, help="K1")
    parser.add_argument("--secondary", type=int, default=32, help="K2")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=3, help="of either side; the best counts")
    parser.add_argument("--no-record", action="store_true", help="print only")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = generate(Path(folder) / "vectors", arguments.items)
        spark = open_session(SparkConfig(master=f"local[{arguments.cores}]", driver_memory="2g"), "benchmark-assign")
        source = Source.of(table, MODALITIES)
        sample = draw_sample(spark, source, 50_000, 0, f"file://{folder}/sample")
        settings = KMeansConfig(iterations=5)
        primaries = Primaries.plain(kmeans(sample.mean, arguments.primary, settings, 0))
        left = residuals(sample.vectors, primaries.assign(sample.item, sample.mean), primaries.centroids)
        books = Codebooks(primaries, kmeans(left, arguments.secondary, settings, 0))
        del sample, left
        ours, our_cpu, codes = min((in_spark(spark, source, books) for _ in range(arguments.repeats)), key=lambda found: found[0])
        spark.stop()
        memory, threads = vectors_in_memory(source), arguments.cores
        theirs, their_cpu, bare = min((in_faiss(memory, books, threads) for _ in range(arguments.repeats)), key=lambda found: found[0])
    same = float((codes == bare).all(axis=1).mean())
    ratio = theirs / ours
    print(f"Spark, from Parquet to codes on disk: {arguments.items / ours:,.0f} items/s ({ours:.2f} s, {our_cpu:.1f} s of CPU)")
    print(f"faiss, from memory to memory:         {arguments.items / theirs:,.0f} items/s ({theirs:.2f} s, {their_cpu:.1f} s of CPU)")
    print(f"ratio {ratio:.2f}; {same:.5%} of the items have the same codes")
    if not arguments.no_record:
        record({"scale.assign_vs_faiss": (ratio, "ratio")}, f"python -m benchmarks.assign --items {arguments.items}")


def generate(folder: Path, items: int) -> Table:
    """Unit vectors around shared interests, one a modality, in the layout that the align stage writes."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    centres = random.standard_normal((2_000, DIM), np.float32)
    files = []
    for number, start in enumerate(range(0, items, ROWS_PER_FILE)):
        n = min(ROWS_PER_FILE, items - start)
        own, name = random.integers(0, len(centres), n), f"part-{number:05d}.parquet"
        vectors = centres[own][:, None] + 0.8 * random.standard_normal((n, len(MODALITIES), DIM), np.float32)
        vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
        columns = {ITEM_IDX: pa.array(np.arange(start, start + n)), **{m: lists(vectors[:, i]) for i, m in enumerate(MODALITIES)}}
        columns |= {MEAN: lists(mean_of(vectors)), PRESENT: lists(np.ones((n, len(MODALITIES)), bool))}
        pq.write_table(pa.table(columns), folder / name, row_group_size=ROWS_PER_GROUP, compression="none", use_dictionary=False)
        files.append(DataFile(name, n, (folder / name).stat().st_size))
    return Table(f"file://{folder}", "", files)


def lists(values: np.ndarray) -> pa.Array:
    """(n, d) as a list column."""
    offsets = pa.array(np.arange(0, values.size + 1, values.shape[1], dtype=np.int32))
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.ListArray.from_arrays(offsets, flat, type=pa.list_(pa.field("element", flat.type, nullable=False)))


def in_spark(spark, source: Source, books: Codebooks) -> tuple[float, float, np.ndarray]:
    """Seconds until the codes of all items are on disk, seconds of CPU (Java and Python workers), and the codes."""
    started, used = time.perf_counter(), cpu_of_children()
    codes = on_disk(assign_codes(spark, source, books, source.rows, 512))
    codes.count()
    seconds, used = time.perf_counter() - started, cpu_of_children() - used
    table = codes.toArrow().sort_by(ITEM_IDX)
    codes.unpersist()
    return seconds, used, np.stack([table.column(name).to_numpy() for name in (PRIMARY, SECONDARY)], axis=1)


def cpu_of_children() -> float:
    """Seconds of CPU of all processes below this one."""
    times = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    return sum(used.user + used.system for used in times)


def vectors_in_memory(source: Source) -> np.ndarray:
    """(n, M, d) of all items."""
    vectors, done = np.empty((source.rows, len(MODALITIES), DIM), np.float32), 0
    for unit in range(len(source.units)):
        for item, block in source.read(unit):
            vectors[done : done + len(item)] = block
            done += len(item)
    return vectors


def in_faiss(vectors: np.ndarray, books: Codebooks, threads: int, batch: int = 4_096) -> tuple[float, float, np.ndarray]:
    """Seconds of a bare loop, seconds of CPU, and the codes: the nearest of P to the mean, residuals, the nearest of Q."""
    import faiss

    faiss.omp_set_num_threads(threads)
    centroids = books.primaries.centroids
    primary, secondary = faiss.IndexFlatL2(DIM), faiss.IndexFlatL2(books.secondaries.shape[1])
    primary.add(centroids)
    secondary.add(books.secondaries)
    codes = np.empty((len(vectors), 2), np.int64)
    means = mean_of(vectors)
    started, used = time.perf_counter(), time.process_time()
    for start in range(0, len(vectors), batch):
        part = slice(start, start + batch)
        codes[part, 0] = primary.search(means[part], 1)[1][:, 0]
        codes[part, 1] = secondary.search(residuals(vectors[part], codes[part, 0], centroids), 1)[1][:, 0]
    return time.perf_counter() - started, time.process_time() - used, codes


if __name__ == "__main__":
    main()
