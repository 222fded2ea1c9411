"""Prepared copies of a study, its original files, or a plain folder behind one interface, one unit at a time.

A *unit* is opened at once: a prepared image, or a file, which may contain several pictures (frames, pages, tiles).
A source is small and can be pickled; each worker process opens its own copy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import pandas as pd

from pellucid.cohort.errors import UserError
from pellucid.cohort.images import Pixels, PreparedImages
from pellucid.cohort.intake import Listing, squares_apart
from pellucid.cohort.runs import DamagedRun, open_finished, parent_of, require_intact
from pellucid.cohort.study import ScanConfig
from pellucid.cohort.withdrawal_list import Withdrawn

_CONTENT = "pellucid.content/1"  # part of every content hash; change it if the same file yields other pixels


@dataclass(frozen=True)
class DecodedPicture:
    """One picture, or the reason why it could not be decoded (then `pixels` is None)."""

    image_id: str
    content: str  # 32 hex digits of the hash of the bytes, with `#frame`; the same content gives the same vector
    pixels: Pixels | None
    reason: str = ""


class ImageSource(Protocol):
    """The input of an extraction."""

    @property
    def units(self) -> Sequence[str]:
        """Names of the units, in order."""

    def n_pictures(self, unit: int) -> int:
        """Number of pictures in the unit; 1 if unknown."""

    def content(self, unit: int) -> str:
        """Hash of the bytes of the unit, without decoding it; empty if it cannot be read."""

    def pictures(self, unit: int, size_px: int) -> Iterator[DecodedPicture]:
        """The unit's pictures as (size_px, size_px, 3) uint8 RGB, in order; at least one `DecodedPicture`.

        What is not a copy that Pellucid wrote is decoded in another process, within limits of time and memory.
        """


@dataclass
class PreparedSource:
    """The prepared copies of a scan, in the manifest's order."""

    folder: Path  # run folder of the stage `read`
    units: list[str]
    places: list[tuple[int, int]]  # (shard, row in the shard)
    _opened: PreparedImages | None = field(default=None, init=False, repr=False)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_opened": None}  # each process maps the shards itself

    @property
    def images(self) -> PreparedImages:
        if self._opened is None:
            self._opened = PreparedImages(self.folder, self.places, self.units)
        return self._opened

    def n_pictures(self, unit: int) -> int:
        return 1

    def content(self, unit: int) -> str:
        return _digest("prepared", hashlib.sha256(self.images.encoded(unit)).hexdigest())

    def pictures(self, unit: int, size_px: int) -> Iterator[DecodedPicture]:
        image_id, content = self.units[unit], ""
        try:
            content = self.content(unit)
            yield DecodedPicture(image_id, content, self.images.square(unit, size_px))
        except (ValueError, OSError, DamagedRun):
            yield DecodedPicture(image_id, content, None, "the prepared copy is damaged")


@dataclass
class FileSource:
    """Original files: those of a plain folder, or those of a scan."""

    root: Path
    units: list[str]
    config: ScanConfig
    wanted: dict[str, list[str]] | None = None  # file → ids of its usable pictures; None: all
    withdrawn: Withdrawn | None = None  # single pictures of these are left out
    text: Literal["keep", "mask"] = "keep"  # burned-in text: unchanged, or painted over
    as_prepared: bool = False  # shrink and compress as in the scan, so that only the text differs from prepared copies

    def n_pictures(self, unit: int) -> int:
        return 1 if self.wanted is None else len(self.wanted[self.units[unit]])

    def content(self, unit: int) -> str:
        try:
            with (self.root / self.units[unit]).open("rb") as handle:
                return self._content(hashlib.file_digest(handle, "sha256").hexdigest())
        except OSError:
            return ""

    def _content(self, sha256: str) -> str:
        chosen = ("frames", "tile_px", "tile_um_per_px", "min_tissue", "max_megapixels")
        masked = {} if self.text == "keep" else {"text": self.text, "as_prepared": self.as_prepared}
        return _digest("original", sha256, **self.config.model_dump(include=set(chosen)), **masked)

    def pictures(self, unit: int, size_px: int) -> Iterator[DecodedPicture]:
        file = self.units[unit]
        missing = dict.fromkeys(self.wanted[file] if self.wanted is not None else [])
        frames = {name.removeprefix(file).removeprefix("#") for name in missing} if self.wanted is not None else None
        content, any_picture, failed = "", False, ""
        decoded = squares_apart(
            self.root, file, self.config, size_px, frames=frames, mask_text=self.text == "mask",
            through_prepared=self.as_prepared,
        )  # fmt: skip
        for square in decoded:
            content = self._content(square.sha256) if square.sha256 else ""
            if square.frame is None:
                failed = square.reason
                continue
            any_picture = True
            frame = f"#{square.frame}" if square.frame else ""
            if self.withdrawn is not None and self.withdrawn.holds_image(f"{file}{frame}"):
                continue
            missing.pop(f"{file}{frame}", None)
            yield DecodedPicture(f"{file}{frame}", f"{content}{frame}", square.pixels, square.reason)
        if missing or failed:
            named = list(missing) or [f"{file}#rest" if any_picture else file]
            reason = failed or "the file no longer holds this picture"
            yield from (DecodedPicture(image_id, content, None, reason) for image_id in named)


def folder_source(listing: Listing, withdrawn: Withdrawn | None = None) -> FileSource:
    """Every file of a plain folder; a file with several pictures gives several vectors, as in a scan."""
    return FileSource(listing.root, list(listing.image_ids), ScanConfig(), withdrawn=withdrawn)


def study_source(
    kind: Literal["prepared", "originals"],
    scan_folder: Path,
    image_root: Path,
    size_px: int,
    text: Literal["keep", "mask"] = "keep",
) -> tuple[ImageSource, pd.DataFrame]:
    """The usable images of a finished scan, and their rows (image_id, patient, split) in the same order.

    Raises:
        UserError: prepared copies are smaller than `size_px`, or missing.
        DamagedRun: a file of the scan or of its prepared copies is not what was written.
    """
    require_intact(scan_folder)
    columns = ["image_id", "patient", "split", "status", "file", "shard", "shard_row"]
    manifest = pd.read_parquet(scan_folder / "manifest.parquet", columns=columns)
    usable = manifest[manifest["status"] == "ok"].reset_index(drop=True)
    images = usable[["image_id", "patient", "split"]]
    read = open_finished(parent_of(scan_folder, "read"))
    config = ScanConfig(**{k: v for k, v in read.record["config"].items() if k in ScanConfig.model_fields})
    if kind == "prepared" and config.size_px < size_px:  # originals that are smaller themselves are allowed
        raise UserError(
            f"{read.path.name}: the prepared copies have {config.size_px} pixels on their shorter side, but {size_px} "
            f"are needed: scan again with scan.size_px={size_px} (in study.yaml, so that every command uses it), or "
            "read the originals with embed.source=originals"
        )
    if kind == "originals" or text == "mask":
        wanted = {str(file): list(ids) for file, ids in usable.groupby("file", sort=False)["image_id"]}
        return FileSource(
            image_root, list(wanted), config, wanted=wanted, text=text, as_prepared=kind == "prepared"
        ), images
    places = list(zip(usable["shard"].astype(int), usable["shard_row"].astype(int), strict=True))
    source = PreparedSource(read.path, usable["image_id"].tolist(), places)
    source.images  # noqa: B018 # raises now if a shard is missing
    return source, images


def _digest(kind: str, sha256: str, **options: object) -> str:
    text = json.dumps([_CONTENT, kind, sha256, options], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
