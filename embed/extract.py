"""`embed`: images → vectors and index under one frozen backbone, resumable chunk by chunk."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import joblib
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field

from cohort.config import Config
from cohort.errors import UserError
from cohort.files import list_folder
from cohort.prepared import Pixels, PreparedImages, stretch
from cohort.progress import track
from cohort.readers import UnreadableImage, read_image
from cohort.runs import RunFolder, atomic_path, begin_run, open_finished
from cohort.study import Study
from embed.backbone import Backbone, load_backbone, slug
from embed.index import build_index, write_index
from embed.vectors import write_vectors

CHUNK_IMAGES = 512  # what a kill can cost; batches never cross a chunk, so that resuming gives the same bytes


class EmbedConfig(Config):
    """The `embed:` section of study.yaml."""

    backbones: list[str] = []  # beside those that `run` always adds: pixels, random weights, the pretrained run
    batch_size: int = Field(64, ge=1)
    device: str = "auto"


class Images(Protocol):
    """What extraction asks of its input."""

    image_ids: list[str]

    def square(self, i: int, size_px: int) -> Pixels:
        """(size_px, size_px, 3) uint8 RGB."""


class FolderImages:
    """The originals of a plain folder, read as they are asked for."""

    def __init__(self, folder: Path) -> None:
        listing = list_folder(folder)
        self.root, self.image_ids, self.fingerprint = folder, list(listing.image_ids), listing.fingerprint

    def square(self, i: int, size_px: int) -> Pixels:
        data = (self.root / self.image_ids[i]).read_bytes()
        return stretch(read_image(data, min_side_px=size_px).pixels, size_px)


def embed(study: Study, scan: RunFolder, backbone: str, *, device: str = "auto", progress: bool = True) -> RunFolder:
    """Vectors of every usable image of a study.

    Args:
        study: whose `embed:` section is used.
        scan: its finished scan.
        backbone: a name that `embed.backbone.load_backbone` knows.

    Raises:
        UserError: the backbone cannot be had.
    """
    config = study.section("embed", EmbedConfig)
    encoder = load_backbone(backbone, device)
    parents = [scan]
    if backbone.startswith("run:") and (Path(backbone[4:]) / "run.json").is_file():
        parents.append(open_finished(Path(backbone[4:]).resolve()))
    key = {"backbone": encoder.name, "fit": "stretch", "batch_size": config.batch_size}
    with begin_run(study.analysis, "embed", slug(encoder.name), key, parents, {"weights": encoder.fingerprint}) as run:
        if not run.done:
            prepared = PreparedImages.open(scan.path, at_least_px=encoder.size_px)
            manifest = pd.read_parquet(scan.path / "manifest.parquet", columns=["image_id", "patient", "split"])
            images = manifest.set_index("image_id").loc[prepared.image_ids].reset_index()
            failed = _extract(run.path, prepared, images, encoder, backbone, config.batch_size, progress)
            if failed:  # the scan has decoded them all
                raise UserError(
                    f"{scan.path}: prepared image `{failed[0][0]}` is damaged: delete the run and scan again"
                )
    return run


def embed_folder(
    folder: Path, backbone: str, out: Path, *, batch_size: int = 64, device: str = "auto", progress: bool = True
) -> tuple[Path, list[tuple[str, str]]]:
    """Vectors of a plain folder, without a study; every image counts as its own patient.

    Returns:
        `out`, and (image_id, reason) of each file that gave no vector.

    Raises:
        UserError: `out` holds something else, or there is nothing to embed.
    """
    encoder = load_backbone(backbone, device)
    source = FolderImages(folder)
    wanted = {"backbone": encoder.name, "fingerprint": encoder.fingerprint, "source": source.fingerprint}
    if (out / "spec.json").is_file():
        spec = json.loads((out / "spec.json").read_text(encoding="utf-8"))
        if all(spec.get(k) == v for k, v in wanted.items()):
            return out, [(f["image_id"], f["reason"]) for f in spec["failed"]]
        raise UserError(f"{out}: holds vectors of another backbone or folder; choose another --out")
    ours = {"parts", "vectors.npy", "images.parquet", "index.faiss"}  # of an interrupted call; spec.json comes last
    if out.exists() and any(p.name not in ours and not p.name.startswith(".") for p in out.iterdir()):
        raise UserError(f"{out}: is not empty; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    images = pd.DataFrame({"image_id": source.image_ids, "patient": source.image_ids, "split": ""})
    failed = _extract(out, source, images, encoder, backbone, batch_size, progress, {"source": wanted["source"]})
    return out, failed


def _extract(
    folder: Path,
    source: Images,
    images: pd.DataFrame,
    encoder: Backbone,
    location: str,
    batch_size: int,
    progress: bool,
    extra: dict[str, Any] | None = None,
) -> list[tuple[str, str]]:
    parts = folder / "parts"
    _fresh_parts(parts, {"fingerprint": encoder.fingerprint, "size_px": encoder.size_px, "batch_size": batch_size,
                         "chunk": CHUNK_IMAGES, "images": source.image_ids, **(extra or {})})  # fmt: skip
    n = len(images)
    if "OMP_NUM_THREADS" not in os.environ:  # who has set it knows why
        torch.set_num_threads(joblib.cpu_count())
    with track(f"embedding with {encoder.name}", n, "images", progress) as advance, ThreadPoolExecutor(2) as pool:
        for start in range(0, n, CHUNK_IMAGES):
            rows = range(start, min(start + CHUNK_IMAGES, n))
            path = parts / f"part-{start // CHUNK_IMAGES:05d}.npz"
            if not path.exists():
                vectors, reasons = _embed_rows(source, rows, encoder, batch_size, pool)
                with atomic_path(path) as temporary, temporary.open("wb") as handle:
                    np.savez(handle, vectors=vectors, reasons=np.array(reasons))
            advance(len(rows))
    loaded = [np.load(path) for path in sorted(parts.glob("part-*.npz"))]
    why = np.concatenate([part["reasons"] for part in loaded])
    values = np.concatenate([part["vectors"] for part in loaded])
    good = why == ""
    if not good.any():
        raise UserError(f"none of the {n} images could be read (first: `{source.image_ids[0]}`: {why[0]})")
    failed = [(source.image_ids[i], str(why[i])) for i in np.flatnonzero(~good)]
    spec = {
        "backbone": encoder.name,
        "location": location,
        "fingerprint": encoder.fingerprint,
        "size_px": encoder.size_px,
        "fit": "stretch",
        "pooling": encoder.pooling if encoder.model is not None else "none",
        "dtype": "float32",
        **encoder.details,
        **(extra or {}),
        "failed": [{"image_id": image_id, "reason": reason} for image_id, reason in failed],
    }
    write_index(folder, build_index(values[good]))
    write_vectors(folder, values[good], images.loc[good].reset_index(drop=True), spec)
    shutil.rmtree(parts)
    return failed


def _fresh_parts(parts: Path, made_from: dict[str, Any]) -> None:
    """Keep the parts of an interrupted call only if it had the same backbone, images and batches."""
    key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
    mark = parts / "made-from"
    if not mark.is_file() or mark.read_text(encoding="utf-8") != key:
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir()
        with atomic_path(mark) as temporary:
            temporary.write_text(key, encoding="utf-8")


def _embed_rows(
    source: Images, rows: Sequence[int], encoder: Backbone, batch_size: int, pool: ThreadPoolExecutor
) -> tuple[NDArray[np.float32], list[str]]:
    """(len(rows), dim) vectors, zero where the reason beside it is not empty."""
    vectors = np.zeros((len(rows), encoder.dim), np.float32)
    reasons = [""] * len(rows)
    for at, pixels in _batches(source, rows, encoder.size_px, batch_size, pool):
        good = {j: p for j, p in enumerate(pixels) if not isinstance(p, str)}
        for j, p in enumerate(pixels):
            if isinstance(p, str):
                reasons[at + j] = p
        if good:
            vectors[[at + j for j in good]] = encoder(np.stack(list(good.values())))
    finite = np.isfinite(vectors).all(axis=1)
    for row in np.flatnonzero(~finite):
        vectors[row], reasons[int(row)] = 0, "the backbone gave a vector that is not finite"
    return vectors, reasons


def _batches(
    source: Images, rows: Sequence[int], size_px: int, batch_size: int, pool: ThreadPoolExecutor
) -> Iterator[tuple[int, list[Pixels | str]]]:
    """Batches in order, the next one decoded while the current one is computed."""

    def one(i: int) -> Pixels | str:
        try:
            return source.square(i, size_px)
        except UnreadableImage as reason:
            return str(reason)
        except (OSError, ValueError) as error:
            return f"the file cannot be read ({type(error).__name__})"

    starts = list(range(0, len(rows), batch_size))
    ahead = [pool.submit(one, i) for i in rows[:batch_size]]
    for start in starts:
        current = ahead
        ahead = [pool.submit(one, i) for i in rows[start + batch_size : start + 2 * batch_size]]
        yield start, [future.result() for future in current]
