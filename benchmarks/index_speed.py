"""Search indexes compared with IndexFlatIP: build time, queries per second, recall@20, memory at 100k and 1M vectors.

    python -m benchmarks.index_speed [--n 100000 1000000] [--dim 384]
        [--kinds flat exact ivf-sq8 ivf-pq hnsw hnsw-sq8 pq-fastscan]
        [--spread apart overlapping] [--folder DIR] [--limit-gb 4]

Each index is built and searched in a separate process; allocations of our kinds are limited to --limit-gb. `peak_mb` is
the largest resident size, including pages of mapped files, which the system may reclaim. The vectors form clusters of
very unequal size (4 per 1,000 vectors) whose centres and spread both have a power-law spectrum, so that their intrinsic
dimension is far below 384, as in real embeddings. *apart*: an image is nearer to the centre of its cluster than to
others. *overlapping*: the spread within clusters is close to that between them, which is hard for every kind. Queries
come from the same clusters and are not in the index; they are sent 1,000 at a time. `flat` is faiss.IndexFlatIP in
memory. QPS is the best pass, at one and at two threads; `per_cpu_s` is queries per second of processor time at one
thread, which other work changes less. The printed recall is that of the unseen queries; the recall that `index.json`
measured is printed too.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pellucid.embed.index import build_index, open_index
from pellucid.embed.index.brute_force import exact_search
from pellucid.embed.index.knn_graph import normalised

QUERIES, K = 1_000, 20
OURS = ("exact", "ivf-sq8", "ivf-pq")
KINDS = ("flat", *OURS, "hnsw", "hnsw-sq8", "pq-fastscan")


SPREADS = {
    "apart": (0.15, 0.15),
    "overlapping": (0.35, 0.5),
}  # of clusters against that of their centres: least, and range


def write_vectors(path: Path, n: int, dim: int, spread_from: tuple[float, float]) -> None:
    """`n` vectors to a .npy and QUERIES more beside it, a block at a time."""
    rng = np.random.default_rng(0)
    clusters = max(20, 4 * n // 1000)
    turn = np.linalg.qr(rng.normal(size=(dim, dim)))[0].astype(np.float32)
    spectrum = (np.arange(1, dim + 1) ** -0.6).astype(np.float32)
    centres = rng.standard_normal((clusters, dim), np.float32) * spectrum
    weights = rng.pareto(1.5, clusters) + 0.2
    spread = (spread_from[0] + spread_from[1] * rng.random(clusters)).astype(np.float32)
    values = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n, dim))

    def some(count: int) -> NDArray[np.float32]:
        which = rng.choice(clusters, count, p=weights / weights.sum())
        noise = rng.standard_normal((count, dim), np.float32) * spectrum * spread[which, None]
        return np.asarray(((centres[which] + noise) @ turn + 0.3 * turn[0]) * 5, dtype=np.float32)

    for start in range(0, n, 50_000):
        values[start : start + 50_000] = some(min(50_000, n - start))
    values.flush()
    queries = some(QUERIES)
    np.save(path.with_suffix(".queries.npy"), queries)
    truth = exact_search(values, normalised(queries), K)[0]
    np.save(path.with_suffix(".truth.npy"), truth)


def one(kind: str, path: Path, limit_gb: float) -> dict[str, Any]:
    """Build and search one index in this process."""
    if kind in OURS and limit_gb:
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit_gb * 1e9), int(limit_gb * 1e9)))
    faiss.omp_set_num_threads(2)
    queries, truth = (np.load(path.with_suffix(f".{name}.npy")) for name in ("queries", "truth"))
    n = len(np.load(path, mmap_mode="r"))
    said: dict[str, Any] = {}
    began, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        if kind in OURS:
            values = np.load(path, mmap_mode="r")
            record = build_index(Path(folder), values, "benchmark", kind=kind)
            built, cpu = time.perf_counter() - began, time.process_time() - cpu
            store = SimpleNamespace(values=values, spec={}, space="benchmark")
            at = time.perf_counter()
            index = open_index(Path(folder), store)
            said = {"open_s": round(time.perf_counter() - at, 3), "nprobe": record["nprobe"],
                    "factor": record["factor"], "recall_said": record["recall_at_20"]}  # fmt: skip
            size, search = record["bytes"], index.search
        else:
            values = normalised(np.load(path))
            index = plain(kind, values)
            built, cpu = time.perf_counter() - began, time.process_time() - cpu
            faiss.write_index(index, f"{folder}/index.faiss")
            size = Path(f"{folder}/index.faiss").stat().st_size
            unit = normalised(queries)

            def search(_: Any, k: int) -> Any:
                return index.search(unit, k)

        rates = {}
        for threads in (1, 2):
            faiss.omp_set_num_threads(threads)
            with threadpool_limits(threads):
                passes, busy = [], []
                for _ in range(3 if kind in ("flat", "exact") else 8):
                    at, cpu_at = time.perf_counter(), time.process_time()
                    found = search(queries, K)[1]
                    passes.append(time.perf_counter() - at)
                    busy.append(time.process_time() - cpu_at)
                rates[threads] = QUERIES / min(passes)
                if threads == 1:
                    rates[0] = QUERIES / min(busy)
    close = np.einsum("qd,qkd->qk", normalised(queries), normalised_rows(np.load(path, mmap_mode="r"), found))
    recall = float(((close >= truth[:, -1:] - 1e-5) & (found >= 0)).mean())
    status = Path("/proc/self/status").read_text(encoding="ascii")  # getrusage would tell of the parent, too
    peak = 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    return {"kind": kind, "n": n, "build_s": round(built, 1), "build_cpu_s": round(cpu, 1), "qps_1": round(rates[1]),
            "qps_2": round(rates[2]), "per_cpu_s": round(rates[0]), "recall": round(recall, 4),
            "file_mb": round(size / 1e6), "peak_mb": round(peak / 1e6), **said}  # fmt: skip


def normalised_rows(values: NDArray[np.float32], found: NDArray[np.int64]) -> NDArray[np.float32]:
    return normalised(np.asarray(values[found.ravel()])).reshape(*found.shape, -1)


def plain(kind: str, values: NDArray[np.float32]) -> Any:
    """The others: as their users write them, at settings that reach 0.98 here where the kind can."""
    dim = values.shape[1]
    if kind == "flat":
        index: Any = faiss.IndexFlatIP(dim)
    elif kind == "pq-fastscan":
        index = faiss.index_factory(dim, f"PQ{dim // 4}x4fs,Refine(SQfp16)", faiss.METRIC_INNER_PRODUCT)
        index.train(values[:: max(1, len(values) // 100_000)])
        index.k_factor = 16
    else:
        index = faiss.index_factory(dim, "HNSW32" if kind == "hnsw" else "HNSW32_SQ8", faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 40
        if not index.is_trained:
            index.train(values[:100_000])
        index.hnsw.efSearch = 128
    index.add(values)
    return index


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--spread", nargs="+", choices=tuple(SPREADS), default=list(SPREADS))
    parser.add_argument("--folder", type=Path, help="where the vectors are written (1.5 GB for 1M × 384); kept")
    parser.add_argument("--limit-gb", type=float, default=4)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.one, given.folder, given.limit_gb)))
        return
    folder = given.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    for n, spread in itertools.product(given.n, given.spread):
        path = folder / f"vectors-{n}-{given.dim}-{spread}.npy"
        if not path.with_suffix(".truth.npy").is_file():
            write_vectors(path, n, given.dim, SPREADS[spread])
        base: dict[str, Any] = {}
        for kind in given.kinds:
            arguments = ["--one", kind, "--folder", str(path), "--limit-gb", str(given.limit_gb)]
            command = [sys.executable, "-m", "benchmarks.index_speed", *arguments]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                why = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode
                print(f"{kind} n={n}: failed: {why}", flush=True)
                continue
            row = {"spread": spread, **json.loads(done.stdout.strip().splitlines()[-1])}
            base = row if kind == "flat" else base
            if base:
                row["times_flat"] = {key: round(row[key] / base[key], 1) for key in ("qps_1", "qps_2", "per_cpu_s")}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
