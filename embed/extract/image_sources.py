"""What extraction reads: prepared copies of a study, its originals, or a plain folder, a unit at a time.

A *unit* is what is opened at once: a prepared image, or a file, which may hold several pictures (frames, pages, tiles).
A source is small and can be pickled: each worker process opens its own.
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
from pellucid.cohort.identifiers import without_text
from pellucid.cohort.images import Pixels, PreparedImages, as_prepared, stretch
from pellucid.cohort.intake import Listing, bytes_of, read_files
from pellucid.cohort.readers import NOTHING_SHOWN, ReadOptions, UnreadableImage, decoding_reason, read_pictures
from pellucid.cohort.runs import open_finished, parent_of
from pellucid.cohort.study import ScanConfig
from pellucid.cohort.withdrawal_list import Withdrawn

_CONTENT = "pellucid.content/1"  # of what a content hash is made; another number where the same file gives other pixels


@dataclass(frozen=True)
class Seen:
    """One picture, or the reason why there is none (then `pixels` is None)."""

    image_id: str
    content: str  # 32 hex digits of the bytes that were read, `#frame` appended; the same content, the same vector
    pixels: Pixels | None
    reason: str = ""


class Source(Protocol):
    """What extraction asks of its input."""

    @property
    def units(self) -> Sequence[str]:
        """What there is to open, in order."""

    @property
    def checked(self) -> bool:
        """Whether every unit has been decoded before, by the scan, under its limits of time and memory."""

    @property
    def time_limit_s(self) -> float:
        """For one picture; 0: none."""

    def n_pictures(self, unit: int) -> int:
        """How many the unit is known to hold; 1 where nobody knows."""

    def content(self, unit: int) -> str:
        """The hash of what the unit's pictures are decoded from, without decoding it; empty if it cannot be read."""

    def pictures(self, unit: int, size_px: int, careful: bool = False) -> Iterator[Seen]:
        """The unit's pictures as (size_px, size_px, 3) uint8 RGB, in order; at least one `Seen`.

        Args:
            careful: a reader has died in this neighbourhood: try it in a process apart first.
        """


@dataclass
class PreparedSource:
    """The prepared copies of a scan, in the manifest's order."""

    folder: Path  # of the run of the stage `read`
    units: list[str]
    places: list[tuple[int, int]]  # shard, and row in it
    checked: bool = True
    time_limit_s: float = 0
    _opened: PreparedImages | None = field(default=None, init=False, repr=False)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_opened": None}  # another process maps the shards itself

    @property
    def images(self) -> PreparedImages:
        if self._opened is None:
            self._opened = PreparedImages(self.folder, self.places, self.units)
        return self._opened

    def n_pictures(self, unit: int) -> int:
        return 1

    def content(self, unit: int) -> str:
        return _digest("prepared", hashlib.sha256(self.images.encoded(unit)).hexdigest())

    def pictures(self, unit: int, size_px: int, careful: bool = False) -> Iterator[Seen]:
        image_id, content = self.units[unit], self.content(unit)
        try:
            yield Seen(image_id, content, self.images.square(unit, size_px))
        except (ValueError, OSError):
            yield Seen(image_id, content, None, "the prepared copy is damaged: delete the run and scan again")


@dataclass
class FileSource:
    """Originals: the files of a plain folder, or those of a scan."""

    root: Path
    units: list[str]
    config: ScanConfig
    checked: bool
    wanted: dict[str, list[str]] | None = None  # of each file the ids of its pictures that count; None: all
    withdrawn: Withdrawn | None = None  # whose frames are left out of files that stay
    text: Literal["keep", "mask"] = "keep"  # burned-in text: as it is, or painted over
    as_prepared: bool = False  # shrink and compress as the scan's copies were, so that nothing else differs from these

    @property
    def time_limit_s(self) -> float:
        return self.config.time_limit_s

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

    def pictures(self, unit: int, size_px: int, careful: bool = False) -> Iterator[Seen]:
        file = self.units[unit]
        missing = dict.fromkeys(self.wanted[file] if self.wanted is not None else [])
        content, any_picture = "", False
        reason = "the file no longer holds this picture"
        try:
            if careful and (death := self._dies(file)):
                raise UnreadableImage(death)
            data = bytes_of(self.root / file)
            content = self._content(hashlib.sha256(data).hexdigest())
            for seen in self._decoded(file, data, content, size_px):
                any_picture = True
                if self.withdrawn is not None and self.withdrawn.holds_image(seen.image_id):
                    continue
                if self.wanted is None:
                    yield seen
                elif seen.image_id in missing:
                    del missing[seen.image_id]
                    yield seen
                    if not missing:  # the rest of the file is of no use
                        return
            if any_picture and not missing:
                return
            if not any_picture:
                reason = NOTHING_SHOWN
        except Exception as error:  # one unusual file must not stop the work on an archive
            reason = decoding_reason(error)
        named = list(missing) or [f"{file}#rest" if any_picture else file]
        yield from (Seen(image_id, content, None, reason) for image_id in named)

    def _decoded(self, file: str, data: bytes, content: str, size_px: int) -> Iterator[Seen]:
        # lines of text are found at full size
        options = ReadOptions.from_scan_config(self.config, min_side_px=size_px if self.text == "keep" else 0)
        for frame, picture in read_pictures(self.root / file, data, options):
            image_id, its = (f"{file}#{frame}", f"{content}#{frame}") if frame else (file, content)
            if isinstance(picture, UnreadableImage):
                yield Seen(image_id, its, None, str(picture))
            else:
                pixels = picture.pixels if self.text == "keep" else without_text(picture.pixels)
                if self.as_prepared:
                    pixels = as_prepared(pixels, self.config.size_px, self.config.jpeg_quality, size_px)
                yield Seen(image_id, its, stretch(pixels, size_px))

    def _dies(self, file: str) -> str:
        """Why no process can read it, as the scan would say it; empty where one can, or says so itself."""
        rows = [row for row, _ in read_files(self.root, [file], self.config)]
        return next((str(row["reason"]) for row in rows if not row["sha256"]), "")


def folder_source(listing: Listing, withdrawn: Withdrawn | None = None) -> FileSource:
    """Every file of a plain folder; a file of several pictures gives as many vectors, as in a scan."""
    return FileSource(listing.root, list(listing.image_ids), ScanConfig(), checked=False, withdrawn=withdrawn)


def study_source(
    kind: Literal["prepared", "originals"],
    scan_folder: Path,
    image_root: Path,
    size_px: int,
    text: Literal["keep", "mask"] = "keep",
) -> tuple[Source, pd.DataFrame]:
    """What a finished scan found usable, and its rows (image_id, patient, split) in the same order.

    Raises:
        UserError: prepared copies are too small for `size_px` or missing.
    """
    columns = ["image_id", "patient", "split", "status", "file", "shard", "shard_row"]
    manifest = pd.read_parquet(scan_folder / "manifest.parquet", columns=columns)
    usable = manifest[manifest["status"] == "ok"].reset_index(drop=True)
    images = usable[["image_id", "patient", "split"]]
    read = open_finished(parent_of(scan_folder, "read"))
    config = ScanConfig(**{k: v for k, v in read.record["config"].items() if k in ScanConfig.model_fields})
    if (
        kind == "prepared" and config.size_px < size_px
    ):  # originals that are smaller themselves are another matter: nothing was lost
        raise UserError(
            f"{read.path.name}: the prepared copies have {config.size_px} pixels on their shorter side, {size_px} are "
            f"needed: scan again with scan.size_px={size_px} (in study.yaml, so that every command knows it), or read "
            "the originals with embed.source=originals"
        )
    if kind == "originals" or text == "mask":
        wanted = {str(file): list(ids) for file, ids in usable.groupby("file", sort=False)["image_id"]}
        return FileSource(
            image_root, list(wanted), config, checked=True, wanted=wanted, text=text, as_prepared=kind == "prepared"
        ), images
    places = list(zip(usable["shard"].astype(int), usable["shard_row"].astype(int), strict=True))
    source = PreparedSource(read.path, usable["image_id"].tolist(), places)
    source.images  # noqa: B018 # says at once which shard is missing
    return source, images


def _digest(kind: str, sha256: str, **options: object) -> str:
    text = json.dumps([_CONTENT, kind, sha256, options], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
