"""The one pass over the originals: each is opened, hashed, decoded, measured and prepared exactly once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import joblib
import pandas as pd

from cohort.files import Listing
from cohort.phenotypes import PHENOTYPES, phenotypes
from cohort.prepared import encode, shrink, write_shard
from cohort.privacy import text_lines
from cohort.readers import UnreadableImage, read_image
from cohort.runs import atomic_path
from cohort.study import ScanConfig

_TEXT_SIDE_PX = 480  # burned-in text is looked for at this scale: at the prepared one small characters melt


def read_one(root: Path, image_id: str, config: ScanConfig) -> tuple[dict[str, Any], bytes | None]:
    """Everything that is ever taken from one original.

    Returns:
        The row for the manifest, and the prepared image's bytes (None where the file is unreadable).
    """
    row: dict[str, Any] = {"image_id": image_id, "status": "unreadable", "reason": "", "sha256": "", "n_bytes": 0}
    try:
        data = (root / image_id).read_bytes()
        row |= {"sha256": hashlib.sha256(data).hexdigest(), "n_bytes": len(data)}
        side = max(config.size_px, _TEXT_SIDE_PX)
        picture = read_image(data, min_side_px=side, max_megapixels=config.max_megapixels)
    except UnreadableImage as reason:
        return row | {"reason": str(reason)}, None
    except OSError as error:
        return row | {"reason": f"the file cannot be opened ({error.strerror or type(error).__name__})"}, None
    except MemoryError:
        return row | {"reason": "the picture does not fit in memory"}, None
    lines = text_lines(shrink(picture.pixels, _TEXT_SIDE_PX))
    small = shrink(picture.pixels, config.size_px)
    row |= {
        "status": "ok",
        "format": picture.format,
        "width": picture.width,
        "height": picture.height,
        "bits": picture.bits,
        "text_like": bool(lines),
        "findings": " ".join([*picture.findings, *(["burned_in_text"] if lines else [])]),
        **{f"header_{name}": value for name, value in picture.header.items()},
        **{f"phenotype_{name}": value for name, value in phenotypes(small).items()},
    }
    return row, encode(small, config.jpeg_quality)


def _read_chunk(folder: Path, root: Path, number: int, image_ids: tuple[str, ...], config: ScanConfig) -> int:
    cv2.setNumThreads(1)  # one process per core; more threads would only push each other aside
    rows: list[dict[str, Any]] = []
    kept: list[str] = []
    encoded: list[bytes] = []
    for image_id in image_ids:
        row, prepared = read_one(root, image_id, config)
        row |= {"shard": number if prepared else -1, "shard_row": len(kept) if prepared else -1}
        if prepared:
            kept.append(image_id)
            encoded.append(prepared)
        rows.append(row)
    write_shard(folder / "prepared" / f"shard-{number:05d}.arrow", kept, encoded)
    with atomic_path(_rows_path(folder, number)) as temporary:  # last: its presence says that the chunk is whole
        _typed(pd.DataFrame(rows)).to_parquet(temporary, index=False)
    return len(image_ids)


def read_all(folder: Path, listing: Listing, config: ScanConfig) -> Iterator[int]:
    """Do the pass into a run folder, resuming after whatever is there; yields how many images each step added.

    Writes `prepared/shard-*.arrow` and `images.parquet` (one row per file, in the listing's order).
    """
    (folder / "prepared").mkdir(exist_ok=True)
    (folder / "rows").mkdir(exist_ok=True)
    ids, size = listing.image_ids, config.shard_images
    chunks = [ids[start : start + size] for start in range(0, len(ids), size)]
    todo = [number for number in range(len(chunks)) if not _rows_path(folder, number).exists()]
    yield len(ids) - sum(len(chunks[number]) for number in todo)
    workers = config.workers or joblib.cpu_count()
    jobs = (joblib.delayed(_read_chunk)(folder, listing.root, number, chunks[number], config) for number in todo)
    parallel = joblib.Parallel(
        n_jobs=1 if len(todo) <= 1 else min(workers, len(todo)),
        return_as="generator_unordered",
        pre_dispatch="2*n_jobs",
    )
    yield from parallel(jobs)
    parts = [pd.read_parquet(_rows_path(folder, number)) for number in range(len(chunks))]
    with atomic_path(folder / "images.parquet") as temporary:
        _typed(pd.concat(parts, ignore_index=True)).to_parquet(temporary, index=False)


def _rows_path(folder: Path, number: int) -> Path:
    return folder / "rows" / f"rows-{number:05d}.parquet"


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """The same columns and types whatever happened to be in a chunk."""
    numbers = ["width", "height", "bits"]
    for name in numbers:
        frame[name] = pd.to_numeric(frame.get(name, pd.Series(0, index=frame.index))).fillna(0).astype("int64")
    for name in (f"phenotype_{p}" for p in PHENOTYPES):
        frame[name] = pd.to_numeric(frame.get(name, pd.Series(index=frame.index, dtype=float))).astype(float)
    frame["text_like"] = frame.get("text_like", pd.Series(False, index=frame.index)).eq(True)
    headers = sorted(
        {c for c in frame.columns if c.startswith("header_")}
        | {f"header_{name}" for name in ("manufacturer", "model", "software", "modality", "patient_id")}
    )
    for name in ("format", "findings", *headers):
        frame[name] = frame.get(name, pd.Series("", index=frame.index)).fillna("").astype(str)
    first = ["image_id", "status", "reason", "sha256", "n_bytes", "format", *numbers, "shard", "shard_row"]
    rest = sorted(c for c in frame.columns if c not in first)
    return frame[[*first, *rest]]
