"""Speed of the read pass of `scan`, in one run with two alternatives.

    python -m benchmarks.scan_speed [--images 200] [--memory]

Prints, for JPEGs of 640 × 480 and 1920 × 1440 and one core:
  Pillow           decode with Pillow, resize the whole image to 256 px, as any data loader does
  naive            the same measures computed directly from their definitions (scikit-image, NumPy), on Pillow's image
  ours             all of `pellucid.cohort.intake.file_record.read_file`: hashes, header, text, quality, phenotypes,
                   prepared copy
and, with --memory, the largest resident memory of scans of 2,000 and 20,000 images.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn
from skimage import color, feature, filters, measure

from pellucid.cohort.intake.file_record import read_file
from pellucid.cohort.study import ScanConfig

SIDE = 256


def photographs(folder: Path, n: int, width: int, height: int) -> list[Path]:
    """`n` JPEGs with a camera's texture: smooth shapes, fine grain, quality 90, 4:2:0."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(n):
        coarse = cv2.resize(
            rng.integers(40, 220, (9, 12, 3), dtype=np.uint8), (width, height), interpolation=cv2.INTER_CUBIC
        )
        fine = cv2.resize(rng.normal(0, 14, (height // 3, width // 3, 3)), (width, height))
        pixels = (coarse + fine + rng.normal(0, 4, coarse.shape)).clip(0, 255).astype(np.uint8)
        path = folder / f"{i:05d}.jpg"
        Image.fromarray(pixels).save(path, quality=90)
        paths.append(path)
    return paths


def pillow(path: Path) -> Image.Image:
    """Decode, and resize with the filter that data loaders use."""
    image = Image.open(path).convert("RGB")
    scale = SIDE / min(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)


def naive(path: Path) -> dict[str, float]:
    """What the pass records, each straight from its definition."""
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    whole = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    identity = hashlib.sha256(whole.tobytes()).hexdigest()
    pixels = np.asarray(pillow(path))
    lab = color.rgb2lab(pixels)
    lightness, a, b = lab[..., 0], lab[..., 1], lab[..., 2]
    inside = lightness > 4
    chroma = np.hypot(a, b)
    gray = color.rgb2gray(pixels)
    levels = (gray * 15.999).astype(np.uint8)
    glcm = feature.graycomatrix(levels, [1], [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4], 16, symmetric=True, normed=True)
    edges = feature.canny(gray, sigma=1)
    vessels = filters.sato(pixels[..., 1] / 255, sigmas=[1, 2, 3])
    small = np.asarray(Image.fromarray(pixels).convert("L").resize((32, 32)), dtype=float)
    low = dctn(small)[:8, :8]
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "JPEG", quality=95, subsampling=0)
    return {
        "hash": float(int(digest[:8], 16) + int(identity[:8], 16)),
        "brightness": lightness[inside].mean(),
        "contrast": lightness[inside].std(),
        "skewness": ((lightness[inside] - lightness[inside].mean()) ** 3).mean(),
        "percentiles": np.percentile(lightness[inside], (5, 95)).sum(),
        "redness": a[inside].mean(),
        "yellowness": b[inside].mean(),
        "saturation": chroma[inside].mean(),
        "heterogeneity": np.hypot(a[inside].std(), b[inside].std()),
        "sharpness": np.log10(filters.laplace(lightness)[inside].var() + 1e-3),
        "entropy": measure.shannon_entropy(levels),
        "reflection": ((lightness > 92) & (chroma < 14)).mean(),
        "glcm": sum(feature.graycoprops(glcm, p).mean() for p in ("contrast", "homogeneity", "correlation")),
        "edges": edges.mean(),
        "vessels": vessels.mean(),
        "haze": pixels.min(axis=2).mean(),
        "phash": float((low > np.median(low)).sum()),
        "copy": float(len(sink.getvalue())),
    }


def best_ms(work: Callable[[Path], object], paths: list[Path], rounds: int = 3) -> float:
    """Milliseconds a file, the best of some rounds: the machine is shared."""
    for path in paths[:3]:
        work(path)
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for path in paths:
            work(path)
        times.append((time.perf_counter() - start) / len(paths) * 1000)
    return min(times)


def speed(n: int) -> None:
    cv2.setNumThreads(1)
    config = ScanConfig()
    print(
        "| JPEG | Pillow decode + resize | naive measures | ours, all of it | ours / Pillow | naive / ours "
        "|\n|---|---|---|---|---|---|"
    )
    for width, height, images in ((640, 480, n), (1920, 1440, max(20, n // 5))):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            paths = photographs(folder, images, width, height)
            plain = best_ms(pillow, paths)
            ours = best_ms(lambda path: list(read_file(path.parent, path.name, config)), paths)
            slow = best_ms(naive, paths[: max(10, images // 10)], 1)
            print(
                f"| {width} × {height} | {1000 / plain:.0f}/s ({plain:.1f} ms) | {1000 / slow:.0f}/s | "
                f"{1000 / ours:.0f}/s ({ours:.1f} ms) | {ours / plain:.2f} | {slow / ours:.1f} |"
            )


_ONE_SCAN = """
import resource, sys
from pathlib import Path
from pellucid.cohort.intake.sandbox import close_readers
from pellucid.cohort.scan import scan
from pellucid.cohort.study import load_study
scan(load_study(Path(sys.argv[1])), progress=False)
close_readers()
print(*(resource.getrusage(who).ru_maxrss // 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
"""


def memory() -> None:
    """Largest resident memory of a whole scan, in a process of its own."""
    print("\n| images | the scan | its largest reading process | seconds |\n|---|---|---|---|")
    for n in (2_000, 20_000):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            (folder / "photos").mkdir()
            rng = np.random.default_rng(0)
            for i in range(n):
                pixels: NDArray[np.uint8] = cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (160, 120))
                cv2.imwrite(str(folder / "photos" / f"p{i // 4:05d}_{i % 4}.jpg"), pixels)
            (folder / "study.yaml").write_text("images: photos\npatient: {from_path: '(p[0-9]+)_'}\n", encoding="utf-8")
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", _ONE_SCAN, str(folder)], capture_output=True, text=True, check=True
            )
            ours, readers = done.stdout.split()
            print(f"| {n:,} | {ours} MiB | {readers} MiB | {time.perf_counter() - start:.0f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--memory", action="store_true", help="also scan 2,000 and 20,000 images")
    arguments = parser.parse_args()
    speed(arguments.images)
    if arguments.memory:
        memory()
