"""How well each quality measure separates degraded from original images, at the thresholds of the specialty.

    python -m benchmarks.quality_detection [--images 80]

Degrades the phantom cohort, and the real sets if the environment variable PELLUCID_DATA names their folder, in known
degrees (blur, fog, over- and underexposure, JPEG, a cut disc). Prints for each measure and degree: the AUROC of
degraded against original images, the share of originals not graded good, and that of degraded images. Then the time of
each hash and its alternatives, and the distances between perceptual hashes of different patients.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import random
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import rankdata

from pellucid.cohort.images.content_hashes import hamming, perceptual_hash, pixel_hash
from pellucid.cohort.images.pixels import encode, shrink
from pellucid.cohort.measures.quality import QUALITY, measure
from pellucid.cohort.measures.quality_grades import grades, load_thresholds
from pellucid.cohort.phantom.population import PhantomConfig, plan_files, write_phantom
from pellucid.cohort.readers import UnreadableImage, read_image

Pixels = NDArray[np.uint8]
REAL = {"busbra": "ultrasound", "pad_ufes_subset": "dermatology", "ct_tcga_dicom": "ct"}


def blur(pixels: Pixels, sigma_px: float) -> Pixels:
    """Gaussian, sigma in pixels of a copy of 256 lines."""
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), sigma_px * min(pixels.shape[:2]) / 256), dtype=np.uint8)


def _in_field(pixels: Pixels, changed: NDArray[np.floating]) -> Pixels:
    inside = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)[:, :, :1] > 10
    return np.where(inside, np.clip(changed, 0, 255), pixels).astype(np.uint8)


def fog(pixels: Pixels, transmission: float) -> Pixels:
    """The haze of He et al.: I = J t + A (1 − t), with a pale A."""
    return _in_field(pixels, pixels * transmission + 215.0 * (1 - transmission))


def exposed(pixels: Pixels, stops: float) -> Pixels:
    """Light times 2^stops, in linear light, clipped."""
    return _in_field(pixels, 255 * ((pixels / 255.0) ** 2.2 * 2.0**stops) ** (1 / 2.2))


def cut(pixels: Pixels, share: float) -> Pixels:
    """Without that share of its columns, from the left."""
    return np.ascontiguousarray(pixels[:, round(share * pixels.shape[1]) :])


def glints(pixels: Pixels, share: float) -> Pixels:
    """White spots over that share of the picture."""
    rng = np.random.default_rng(0)
    noise = cv2.GaussianBlur(rng.standard_normal(pixels.shape[:2]), (0, 0), min(pixels.shape[:2]) / 60)
    return _in_field(pixels, np.where((noise > np.quantile(noise, 1 - share))[:, :, None], 255, pixels))


SPOILING: dict[str, list[tuple[str, Callable[[Pixels], Pixels]]]] = {
    "sharpness": [(f"blur σ {s} px", lambda p, s=s: blur(p, s)) for s in (0.7, 1, 1.5, 2.5)],
    "exposure": [(f"{s:+} stops", lambda p, s=s: exposed(p, s)) for s in (1, 2, -3, -5)],
    "reflection": [(f"glints on {s:.0%}", lambda p, s=s: glints(p, s)) for s in (0.03, 0.1)],
    "obstruction": [(f"fog, {t:.0%} let through", lambda p, t=t: fog(p, t)) for t in (0.7, 0.5, 0.3)],
    "completeness": [(f"{s:.0%} cut off", lambda p, s=s: cut(p, s)) for s in (0.2, 0.3, 0.45)],
}
JPEG = (20, 40, 60, 80, 90, 95)


def phantom(n: int) -> list[Pixels]:
    config = PhantomConfig(patients=max(4, n // 3), images_per_patient=(3, 3), width_px=640, height_px=480, blurred=0)
    with tempfile.TemporaryDirectory() as folder:
        write_phantom(Path(folder) / "study", config)
        names = plan_files(config).query("_spoilt == ''")["file_name"]
        return [_read(Path(folder) / "study" / "images" / name) for name in names][:n]


def real(name: str, n: int) -> list[Pixels]:
    folder = Path(os.environ["PELLUCID_DATA"]) / name
    table = pd.read_csv(folder / "manifest.csv").drop_duplicates("patient_id")["image"].tolist()
    random.Random(0).shuffle(table)
    return list(_readable(folder / image for image in table[:n]))


def _readable(paths: Iterator[Path]) -> Iterator[Pixels]:
    for path in paths:
        try:
            yield _read(path)
        except UnreadableImage as reason:
            print(f"{path.name} is left out: {reason}")


def _read(path: Path) -> Pixels:
    return read_image(path.read_bytes(), min_side_px=480, max_megapixels=200).pixels


def auroc(sound: NDArray[np.float64], spoilt: NDArray[np.float64]) -> float:
    ranks = rankdata(np.concatenate([spoilt, sound]))[: len(spoilt)]
    return float((ranks.mean() - (len(spoilt) + 1) / 2) / len(sound))


def measured(pictures: list[Pixels], quality: float | None = None) -> pd.DataFrame:
    rows = [measure(shrink(p, 256), quality) for p in pictures]
    return pd.DataFrame(rows).assign(image_id=[str(i) for i in range(len(rows))])


def table(name: str, specialty: str, pictures: list[Pixels]) -> None:
    """One row per measure and degree of spoiling, as Markdown."""
    thresholds = load_thresholds(specialty)
    sound = measured(pictures)
    print(f"\n### {name}: {len(pictures)} pictures, thresholds of `{specialty}`\n")
    quantiles = sound[[m.column for m in QUALITY.values()]].quantile([0.01, 0.05, 0.5, 0.95, 0.99])
    print(quantiles.round(3).to_string(), "\n")
    print(
        "| measure | spoilt by | AUROC | sound ones not good / poor | spoilt ones not good / poor "
        "|\n|---|---|---|---|---|"
    )
    for key, ways in SPOILING.items():
        sign = 1 if QUALITY[key].bad == "high" else -1
        graded = grades(sound, thresholds)[f"image_grade_{key}"]
        for how, spoil in ways:
            spoilt = measured([spoil(p) for p in pictures])
            worse = grades(spoilt, thresholds)[f"image_grade_{key}"]
            area = auroc(sign * sound[QUALITY[key].column].to_numpy(), sign * spoilt[QUALITY[key].column].to_numpy())
            print(f"| {key} | {how} | {area:.3f} | {_shares(graded)} | {_shares(worse)} |")


def _shares(graded: pd.Series) -> str:
    if (graded == "").all():
        return "not judged"
    return f"{graded.isin(['borderline', 'poor']).mean():.0%} / {(graded == 'poor').mean():.0%}"


def compression(pictures: list[Pixels]) -> None:
    """The grade goes by the number in the header; what that number does to the other measures is the question here."""
    print("\n### What JPEG does to the other measures (median change, in standard deviations of the sound)\n")
    sound = measured(pictures)
    columns = [c for c in sound.columns if c != "image_id" and sound[c].std() > 0]
    rows = {}
    for quality in JPEG:
        again = [np.asarray(Image.open(io.BytesIO(encode(p, quality)))) for p in pictures]
        rows[quality] = (measured(again)[columns] - sound[columns]).median() / sound[columns].std()
    print(pd.DataFrame(rows).round(2).to_string())


def fastest(call: Callable[[], object], times: int = 200) -> float:
    """Milliseconds of the quickest call."""
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return 1e3 * best


def timing(picture: Pixels) -> None:
    """Everything that is measured, beside Pillow's decoding and resizing of the same 640 × 480 JPEG."""
    full = np.asarray(cv2.resize(picture, (640, 480), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
    small, data, raw = shrink(full, 256), encode(full, 92), full.tobytes()
    pillow = fastest(lambda: np.asarray(Image.open(io.BytesIO(data)).resize((341, 256), Image.Resampling.BOX)))
    print("\n### Time on one core, 640 × 480 (milliseconds, quickest of 200; share of Pillow's decode + resize)\n")
    calls: dict[str, Callable[[], object]] = {
        "phenotypes and quality": lambda: measure(small, 92.0),
        "perceptual hash": lambda: perceptual_hash(small),
        "pixel hash": lambda: pixel_hash(full, 640, 480),
        "(BLAKE2b of the pixels)": lambda: hashlib.blake2b(raw).digest(),
        "(SHA-256 of the pixels)": lambda: hashlib.sha256(raw).digest(),
        "(SHA-1 of the pixels)": lambda: hashlib.sha1(raw, usedforsecurity=False).digest(),
        "(one CRC-32 of the pixels)": lambda: zlib.crc32(raw),
    }
    print(f"| Pillow | {pillow:.2f} | 1.00 |")
    for name, call in calls.items():
        took = fastest(call)
        print(f"| {name} | {took:.2f} | {took / pillow:.2f} |")


def distances(name: str, pictures: list[Pixels]) -> None:
    """How many pairs of pictures of different patients have perceptual hashes this near."""
    values = np.array([int(perceptual_hash(shrink(p, 256)), 16) for p in pictures], dtype=np.uint64)
    apart = np.bitwise_count(values[:, None] ^ values[None, :])[np.triu_indices(len(values), 1)]
    near = ", ".join(f"≤ {d}: {(apart <= d).mean():.2e}" for d in (2, 4, 6, 8, 12))
    again = [
        hamming(perceptual_hash(p), perceptual_hash(np.asarray(Image.open(io.BytesIO(encode(p, 50))).reduce(2))))
        for p in pictures
    ]
    print(
        f"{name}: {len(apart)} pairs, median {np.median(apart):.0f}; {near}; re-encoded at half size: largest "
        f"{max(again)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=80, help="per set")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    sets = {"phantom": ("endoscopy", phantom(arguments.images))}
    if os.environ.get("PELLUCID_DATA"):
        sets |= {name: (specialty, real(name, arguments.images)) for name, specialty in REAL.items()}
    for name, (specialty, pictures) in sets.items():
        if pictures:
            table(name, specialty, pictures)
    compression(sets["phantom"][1][:40])
    timing(sets["phantom"][1][0])
    print("\n### Perceptual hashes of different pictures: bits apart\n")
    for name, (_, pictures) in sets.items():
        distances(name, pictures)


if __name__ == "__main__":
    main()
