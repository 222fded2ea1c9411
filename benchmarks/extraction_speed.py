"""Extraction speed on the same files, in one run: a plain loop, lightly-train's `embed`, Pellucid, and the network
alone.

    python -m benchmarks.extraction_speed [--images 256] [--rounds 6] [--models …] [--sizes 640x480 1920x1440]
        [--lightly-train PYTHON]

*Plain loop*: the usual first version: Pillow, timm's transform, a DataLoader with one worker per core, float32, all
cores in one matrix product. *lightly-train*: run by the interpreter of a separate environment (never imported here: it
is AGPL); its start-up time is subtracted as the difference of two lengths. *Ours*: `compute_chunks`, from a plain
folder and from a scan's prepared copies. *The limit*: the same network on decoded images in memory, the better of one
process with all cores and one thread per product. Rounds alternate. Other work on the machine only slows down, so
ratios use the best round; the median and the range are printed too. lightly-train takes a minute to start and runs
once.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from benchmarks.photographs import Photographs
from pellucid.cohort.intake.file_listing import list_folder
from pellucid.cohort.phantom.population import PhantomConfig, write_phantom
from pellucid.cohort.scan import scan
from pellucid.cohort.study import load_study
from pellucid.embed.backbones.backbone import Backbone, load_backbone
from pellucid.embed.backbones.compute_choice import Compute, Hardware
from pellucid.embed.backbones.readout import ReadoutConfig
from pellucid.embed.extract.chunks import ExtractionJob, chunk_bounds, prepare_chunk_folder, read_chunk
from pellucid.embed.extract.embed_config import EmbedConfig
from pellucid.embed.extract.image_sources import ImageSource, folder_source, study_source
from pellucid.embed.extract.workers import BackboneRequest, compute_chunks

CORES = int(joblib.cpu_count())
BATCH = 64  # of the plain loop and of lightly-train
LIMIT_BATCHES = (4, 16)
LIMIT_S = 4.0


def plain_loop(paths: list[Path], architecture: str) -> float:
    """Images per second; the network is loaded before the clock starts."""
    model = timm.create_model(architecture, num_classes=0).eval()
    config = timm.data.resolve_data_config({}, model=model)
    transform = timm.data.create_transform(**config, is_training=False)
    torch.set_num_threads(CORES)
    began = time.perf_counter()
    rows = []
    with torch.inference_mode():
        for batch in DataLoader(Photographs(paths, transform), BATCH, num_workers=CORES):
            rows.append(model(batch).numpy())
    assert len(np.concatenate(rows)) == len(paths)
    return len(paths) / (time.perf_counter() - began)


LIGHTLY = """
import sys, time, lightly_train
out, data, checkpoint, batch, workers = sys.argv[1:]
began = time.perf_counter()
lightly_train.embed(out=out, data=data, checkpoint=checkpoint, format="torch", batch_size=int(batch),
                    num_workers=int(workers), accelerator="cpu", overwrite=True)
print("SECONDS", time.perf_counter() - began)
"""
LIGHTLY_CHECKPOINT = """
import sys, lightly_train
out, data, model = sys.argv[1:]
train = getattr(lightly_train, "pretrain", None) or lightly_train.train
train(out=out, data=data, model="timm/" + model, method="simclr", epochs=0, batch_size=4, num_workers=0,
      accelerator="cpu", overwrite=True)
"""


def lightly_train(python: str, folder: Path, few: Path, architecture: str, work: Path) -> float:
    """Images per second between the two folders' lengths: its start-up is the same for both."""
    checkpoint = work / f"lightly-{architecture}"
    if not checkpoint.exists():
        _call(python, LIGHTLY_CHECKPOINT, checkpoint, few, architecture)
    found = next(checkpoint.rglob("*.ckpt"))
    seconds, counts = [], []
    for data in (few, folder):
        said = _call(python, LIGHTLY, work / "lightly.pt", data, found, BATCH, CORES)
        seconds.append(float(said.split("SECONDS")[1].split()[0]))
        counts.append(len(list(data.iterdir())))
    return (counts[1] - counts[0]) / (seconds[1] - seconds[0])


def _call(python: str, program: str, *arguments: object) -> str:
    done = subprocess.run([python, "-c", program, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"lightly-train: {done.stderr[-2000:]}")
    return done.stdout


def ours(
    source: ImageSource, name: str, encoder: Backbone, folder: Path, processes: bool = False
) -> tuple[float, NDArray[np.float32]]:
    """Images per second of all parts, start-up of processes included, and the vectors in order."""
    prepare_chunk_folder(folder, {"now": time.time()})
    units = np.arange(len(source.units))
    batch = EmbedConfig().batch_size_for(encoder)
    job = ExtractionJob(folder, source, units, chunk_bounds(source, units, batch), encoder.size_px, batch)
    began = time.perf_counter()
    compute_chunks(job, BackboneRequest(name, "cpu", ReadoutConfig()), encoder, lambda *_: None, processes=processes)
    seconds = time.perf_counter() - began
    return len(units) / seconds, np.concatenate([read_chunk(folder, part).vectors for part in range(job.n_chunks)])


def network_share(source: ImageSource, name: str, encoder: Backbone, folder: Path) -> float:
    """Share of the processor time of an extraction that is the network's: however busy the machine, the limit of the
    rest."""
    spent = [0.0]

    def timed(pixels: NDArray[np.uint8]) -> Any:
        began = time.thread_time()
        try:
            return type(encoder).read(encoder, pixels)
        finally:
            spent[0] += time.thread_time() - began

    watched = replace(encoder.packed())
    object.__setattr__(watched, "read", timed)
    began = time.process_time()
    ours(source, name, watched, folder)
    return spent[0] / (time.process_time() - began)


def rate(source: ImageSource, name: str, encoder: Backbone, folder: Path, processes: bool = False) -> float:
    return ours(source, name, encoder, folder, processes)[0]


def best(encoder: Backbone) -> float:
    """Images per second of the network alone, by the best way of using the cores."""
    found, encoder = [], encoder.packed()
    for batch in LIMIT_BATCHES:
        pixels = np.random.default_rng(0).integers(0, 255, (batch, encoder.size_px, encoder.size_px, 3), dtype=np.uint8)
        for products, threads in {(1, CORES), (CORES, 1)}:
            torch.set_num_threads(threads)
            found.append(_together(partial(encoder, pixels), products) * batch)
    return max(found)


def _together(call: Callable[[], object], how_many: int) -> float:
    """Calls per second of so many threads that call at the same time."""
    counts = [0] * how_many
    until = [0.0]

    def run(k: int) -> None:
        call()
        gate.wait()
        while time.perf_counter() < until[0]:
            call()
            counts[k] += 1
        ended[k] = time.perf_counter()

    def open_gate() -> None:
        until[0] = time.perf_counter() + LIMIT_S

    ended = [0.0] * how_many
    gate = threading.Barrier(how_many, action=open_gate)
    threads = [threading.Thread(target=run, args=(k,)) for k in range(how_many)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    began = until[0] - LIMIT_S
    return sum(count / (end - began) for count, end in zip(counts, ended, strict=True))


def agreement(vectors: NDArray[np.float32], reference: NDArray[np.float32]) -> tuple[float, float]:
    """Lowest cosine of a vector with its reference, and the share of images with the same ten nearest."""
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (vectors, reference))
    nearest = [np.argsort(-(v @ v.T), axis=1)[:, 1:11] for v in (a, b)]
    same = [set(x) == set(y) for x, y in zip(*nearest, strict=True)]
    return float((a * b).sum(1).min()), float(np.mean(same))


def in_float32(encoder: Backbone, source: ImageSource) -> NDArray[np.float32]:
    """The same pictures in one float32 product by torch's own attention."""
    plain = load_backbone(encoder.location, "cpu", compute=Compute())
    torch.set_num_threads(CORES)
    squares = [next(source.pictures(unit, encoder.size_px)).pixels for unit in range(len(source.units))]
    return np.concatenate([plain(np.stack(squares[k : k + BATCH])) for k in range(0, len(squares), BATCH)])  # type: ignore[arg-type]


def machine() -> str:
    hardware = Hardware.from_device(torch.device("cpu"))
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    said = [flag for flag in ("avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    versions = f"torch {torch.__version__}, timm {timm.__version__}, Python {platform.python_version()}"
    return (
        f"{hardware.name}, {CORES} cores, flags {' '.join(said) or 'none of AVX-512'}; {versions}; load average "
        f"before: {os.getloadavg()[0]:.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--models", nargs="+", default=["vit_tiny_patch16_224", "vit_small_patch16_224"])
    parser.add_argument("--sizes", nargs="+", default=["640x480", "1920x1440"])
    parser.add_argument("--lightly-train", default="", help="the Python of an environment that has lightly-train")
    parser.add_argument("--processes", action="store_true", help="measure workers that are processes, too")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    print(machine(), flush=True)
    results: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory() as temporary:
        for size in chosen.sizes:
            folder, few, scanned = _files(Path(temporary), size, chosen.images)
            for architecture in chosen.models:
                name = f"timm-random:{architecture}"
                encoder = load_backbone(name, "cpu")
                print(f"\n{architecture}: chosen {encoder.computing.sentence()}", flush=True)
                originals = folder_source(list_folder(folder))
                prepared, _ = study_source("prepared", scanned, folder, encoder.size_px)
                parts = Path(temporary) / "parts"
                files = sorted(folder.iterdir())
                contenders: dict[str, Callable[[], float]] = {
                    "plain loop": partial(plain_loop, files, architecture),
                    "ours, originals": partial(rate, originals, name, encoder, parts),
                    "ours, prepared": partial(rate, prepared, name, encoder, parts),
                    "the network alone": partial(best, encoder),
                }
                if chosen.processes:
                    key = "ours, originals, processes with their start"
                    contenders[key] = partial(rate, originals, name, encoder, parts, processes=True)
                if chosen.lightly_train:
                    work = Path(temporary)
                    contenders["lightly-train"] = partial(
                        lightly_train, chosen.lightly_train, folder, few, architecture, work
                    )
                rates: dict[str, list[float]] = {key: [] for key in contenders}
                for number in range(chosen.rounds):
                    for key, contender in contenders.items():
                        if number == 0 or key != "lightly-train":
                            rates[key].append(contender())
                of_time = {
                    key: network_share(source, name, encoder, parts)
                    for key, source in (("originals", originals), ("prepared", prepared))
                }
                _, vectors = ours(prepared, name, encoder, parts)
                lowest, same = agreement(vectors, in_float32(encoder, prepared))
                results[f"{size} {architecture}"] = {
                    "rates": rates,
                    "cosine": lowest,
                    "top10": same,
                    "network_share": of_time,
                    "compute": encoder.computing.record(),
                }
                print(table(size, architecture, rates, lowest, same), flush=True)
                shares = ", ".join(f"{share:.1%} from {key}" for key, share in of_time.items())
                print(f"the network's share of the processor time: {shares}", flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


def _files(root: Path, size: str, n: int) -> tuple[Path, Path, Path]:
    """A folder with `n` photographs, one with an eighth of them, and the folder of a finished scan of the first."""
    width, height = map(int, size.split("x"))
    write_phantom(
        root / size,
        PhantomConfig(
            patients=max(10, n // 4),
            images_per_patient=(4, 4),
            width_px=width,
            height_px=height,
            unreadable=0,
            duplicated=0,
        ),
    )
    folder, few = root / f"{size}-all", root / f"{size}-few"
    for target, count in ((folder, n), (few, n // 8)):
        target.mkdir()
        for k, path in enumerate(sorted((root / size).rglob("*.jpg"))[:count]):
            os.link(path, target / f"{k:05d}.jpg")
    (root / f"{size}.yaml").write_text(
        f"images: {folder.name}\npatient: none\nanalysis: {size}-analysis\n", encoding="utf-8"
    )
    return folder, few, scan(load_study(root / f"{size}.yaml"), progress=False).path


def table(size: str, architecture: str, rates: dict[str, list[float]], lowest: float, same: float) -> str:
    best_of = {key: max(values) for key, values in rates.items()}
    lines = [
        f"\n{size} JPEG, {architecture}",
        "| | images/s: best | median (lowest) | × plain loop | of the network alone |",
        "|---|---|---|---|---|",
    ]
    for key, values in rates.items():
        spread = f"{best_of[key]:.1f} | {statistics.median(values):.1f} ({min(values):.1f})"
        ratio, share = best_of[key] / best_of["plain loop"], best_of[key] / best_of["the network alone"]
        lines.append(f"| {key} | {spread} | {ratio:.2f} | {share:.0%} |")
    lines.append(
        f"against float32 by torch's own attention: lowest cosine {lowest:.6f}, same ten nearest for {same:.1%}"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
