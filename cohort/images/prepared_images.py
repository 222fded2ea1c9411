"""Prepared images: Arrow IPC shards of encoded bytes, written once by the scan and read by everything after it.

Schema `pellucid.prepared/2`: `image_id`, `image` and `crc32`, the checksum of both, compared whenever a copy is read.
Shards of `pellucid.prepared/1` have no checksum.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import simplejpeg

from pellucid.cohort.errors import UserError
from pellucid.cohort.images.pixels import Pixels, stretch

SCHEMA = pa.schema(
    [("image_id", pa.string()), ("image", pa.binary()), ("crc32", pa.uint32())],
    metadata={b"schema": b"pellucid.prepared/2"},
)


def shard_path(folder: Path, shard: int) -> Path:
    """Where a run of the stage `read` keeps the shard of that number (the manifest's column `shard`)."""
    return folder / "prepared" / f"shard-{shard:09d}.arrow"


def write_shard(path: Path, image_ids: Sequence[str], images: Sequence[bytes]) -> None:
    """One shard, atomically: it is either whole under its name or not there."""
    from pellucid.cohort.runs.atomic_files import atomic_path

    checks = [_checksum(image_id, image) for image_id, image in zip(image_ids, images, strict=True)]
    columns = [pa.array(image_ids, pa.string()), pa.array(images, pa.binary()), pa.array(checks, pa.uint32())]
    batch = pa.record_batch(columns, schema=SCHEMA)
    with (
        atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, SCHEMA) as writer,
    ):
        writer.write_batch(batch)


def _checksum(image_id: str, image: bytes) -> int:
    return zlib.crc32(image, zlib.crc32(image_id.encode()))


class PreparedImages:
    """Random access to prepared images by row; memory-mapped, thread-safe, and decoding releases the GIL."""

    def __init__(self, read_folder: Path, rows: Sequence[tuple[int, int]], image_ids: Sequence[str]) -> None:
        """`rows`: for each image, the shard's number and the row in it; `image_ids` in the same order.

        Raises:
            UserError: shards are missing.
        """
        from pellucid.cohort.runs.integrity import how_to_repair

        self.image_ids = list(image_ids)
        self._rows = list(rows)
        self._folder = read_folder
        gone = [shard for shard in sorted({shard for shard, _ in rows}) if not shard_path(read_folder, shard).is_file()]
        if gone:
            raise UserError(
                f"{shard_path(read_folder, gone[0])}: is missing, with the prepared images in it: "
                f"{how_to_repair(read_folder)}"
            )
        self._columns: dict[int, tuple[pa.BinaryArray, pa.UInt32Array | None]] = {}

    @classmethod
    def open(cls, scan_folder: Path, image_ids: Sequence[str] | None = None, at_least_px: int = 0) -> PreparedImages:
        """All readable images of a scan, or those named, in the order named.

        Args:
            scan_folder: of the finished scan.
            image_ids: which; None: all.
            at_least_px: what will be done with them needs copies whose shorter side has this many pixels.

        Raises:
            UserError: the scan is incomplete, has no such image, or has prepared its copies too small.
            DamagedRun: a file of the scan or of its prepared copies is not what was written.
        """
        import pandas as pd

        from pellucid.cohort.runs.history import open_finished, parent_of
        from pellucid.cohort.runs.integrity import require_intact

        require_intact(scan_folder)
        manifest = pd.read_parquet(
            scan_folder / "manifest.parquet", columns=["image_id", "status", "shard", "shard_row"]
        )
        usable = manifest[manifest["status"] == "ok"]
        if image_ids is not None:
            usable = usable.set_index("image_id")
            unknown = [name for name in image_ids if name not in usable.index]
            if unknown:
                raise UserError(f"{scan_folder}: has no readable image `{unknown[0]}` ({len(unknown)} not found)")
            usable = usable.loc[list(image_ids)].reset_index()
        rows = list(zip(usable["shard"].astype(int), usable["shard_row"].astype(int), strict=True))
        read = parent_of(scan_folder, "read")
        size_px = int(open_finished(read).record["config"].get("size_px", at_least_px))
        if size_px < at_least_px:  # originals that are smaller themselves are another matter: nothing was lost
            raise UserError(
                f"{read.name}: the prepared copies have {size_px} pixels on their shorter side, {at_least_px} are "
                f"needed: scan again with scan.size_px={at_least_px} (in study.yaml, so that every command knows it)"
            )
        return cls(read, rows, usable["image_id"].tolist())

    def __len__(self) -> int:
        return len(self._rows)

    def encoded(self, i: int) -> bytes:
        """The encoded bytes of image `i`.

        Raises:
            DamagedRun: they are not those that the scan wrote.
        """
        shard, row = self._rows[i]
        columns = self._columns.get(shard)
        try:
            if columns is None:  # two threads may both open it; either result serves
                columns = self._columns[shard] = self._opened(shard)
            image, checks = columns
            data = bytes(image[row].as_buffer())
            intact = checks is None or checks[row].as_py() == _checksum(self.image_ids[i], data)
        except Exception:  # whatever Arrow makes of a damaged file
            intact = False
        if not intact:
            raise self._damaged(shard, i)
        return data

    def _opened(self, shard: int) -> tuple[pa.BinaryArray, pa.UInt32Array | None]:
        table = pa.ipc.open_file(pa.memory_map(str(shard_path(self._folder, shard)))).read_all()
        table.validate(full=True)  # a damaged offset would be followed beyond the file and crash Python

        def column(name: str) -> pa.Array:
            # `combine_chunks` would copy the shard into memory; one chunk, as we write it, stays in the mapped file.
            chunks = table.column(name).chunks
            return chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks)

        first_version = (table.schema.metadata or {}).get(b"schema") == b"pellucid.prepared/1"
        return column("image"), None if first_version else column("crc32")

    def _damaged(self, shard: int, i: int) -> Exception:
        from pellucid.cohort.runs.checksums import DamagedRun
        from pellucid.cohort.runs.integrity import how_to_repair

        return DamagedRun(
            f"{shard_path(self._folder, shard)}: the prepared copy of `{self.image_ids[i]}` is damaged: it does not "
            f"have the checksum that the scan wrote\n{how_to_repair(self._folder)}"
        )

    def decode(self, i: int, min_side_px: int = 0) -> Pixels:
        """(H, W, 3) RGB, decoded at the smallest DCT scale whose sides are both at least `min_side_px` (0: full)."""
        return np.asarray(
            simplejpeg.decode_jpeg(self.encoded(i), "RGB", min_height=min_side_px, min_width=min_side_px, min_factor=1),
            dtype=np.uint8,
        )

    def square(self, i: int, size_px: int) -> Pixels:
        """(size_px, size_px, 3) RGB: the whole image stretched onto the square, so that no border is lost."""
        return stretch(self.decode(i, size_px), size_px)
