"""Whether the originals are those that a `read` run has read: by content, not by their times.

A listing that a run was made from is recognised by its fingerprint, which contains sizes and times: nothing is read.
After `cp -r`, `rsync` or a restored backup the times differ. Then names and sizes decide whether the files may be the
same, and their sha256, compared with those in the run's `images.parquet`, whether they are. The answer is kept, so
that the originals are hashed once after a copy and not by every command.
"""

from __future__ import annotations

import contextlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pellucid.cohort.intake.file_listing import Listing
from pellucid.cohort.progress import is_first_process, track
from pellucid.cohort.runs.atomic_files import write_json
from pellucid.cohort.runs.checksums import sha256_file
from pellucid.cohort.runs.folder import RunFolder
from pellucid.cohort.runs.history import finished_runs
from pellucid.cohort.runs.integrity import require_intact
from pellucid.cohort.runs.private_files import private_files

_ANSWERS = ".same-originals.json"
_KEPT = 20  # answers
_SHOWN_FROM_BYTES = 1 << 30
_BATCH = 64


def known_fingerprint(analysis: Path, listing: Listing) -> str:
    """The fingerprint by which a finished `read` run knows these files; the listing's own if there is none.

    Raises:
        DamagedRun: the table of such a run is not what was written.
    """
    runs = {str(run.record["inputs"].get("files")): run for run in finished_runs(analysis, "read")}
    if listing.fingerprint in runs or not runs:
        return listing.fingerprint
    answers = _answers(analysis)
    earlier = answers.pop(listing.fingerprint, {})
    found = str(earlier.get("same_as", ""))
    compared = set(earlier.get("compared", []))
    if found in runs:
        return found
    new = [name for name in reversed(runs) if name not in compared]
    if not new:
        return listing.fingerprint
    found = next((name for name in new if _same_content(runs[name], listing)), "")
    answers[listing.fingerprint] = {"same_as": found, "compared": sorted({*compared, *runs})}
    with contextlib.suppress(OSError), private_files(analysis):  # read-only: compared again by the next command
        write_json(analysis / "read" / _ANSWERS, dict(list(answers.items())[-_KEPT:]))
    return found or listing.fingerprint


def _answers(analysis: Path) -> dict[str, dict[str, Any]]:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return dict(json.loads((analysis / "read" / _ANSWERS).read_text(encoding="utf-8")))
    return {}


def _same_content(run: RunFolder, listing: Listing) -> bool:
    """Whether the listed files have the names, sizes and contents of those that the run has read.

    A file whose content the run could not hash, because its decoder died, is compared by its size.
    """
    columns = ["file", "n_bytes", "sha256"]
    if not (run.path / "images.parquet").is_file():
        return False
    require_intact(run.path)
    if not set(columns) <= set(pq.read_schema(run.path / "images.parquet").names):
        return False
    table = pq.read_table(run.path / "images.parquet", columns=columns).to_pandas()
    read = table.sort_values("sha256").drop_duplicates("file", keep="last").set_index("file")
    if len(read) != len(listing.image_ids):
        return False
    sizes = dict(zip(listing.image_ids, listing.n_bytes, strict=True))
    if read["n_bytes"].to_dict() != sizes:
        return False
    expected = {str(file): str(digest) for file, digest in read["sha256"].items() if digest}
    return _have(listing.root, expected, sum(listing.n_bytes))


def _have(root: Path, expected: dict[str, str], n_bytes: int) -> bool:
    """Whether the files have these sha256; the last changed ones first, so that a changed file is soon found."""
    try:
        files = sorted(expected, key=lambda file: -(root / file).stat().st_mtime_ns)
        with (
            track("comparing the originals with those that were read", len(files), "files",
                  n_bytes > _SHOWN_FROM_BYTES and is_first_process()) as advance,
            ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        ):  # fmt: skip
            for start in range(0, len(files), _BATCH):
                batch = files[start : start + _BATCH]
                found = pool.map(sha256_file, [root / file for file in batch])
                if any(now != expected[file] for file, now in zip(batch, found, strict=True)):
                    return False
                advance(len(batch))
    except OSError:  # a file went, or cannot be opened any more
        return False
    return True
