"""A person has looked through the review sheet: who and when is recorded, and the files that it shows may say so."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pellucid.cohort.deidentify.dicom.dicom_headers import certified
from pellucid.cohort.deidentify.linkage_file import Linkage
from pellucid.cohort.deidentify.progress_records import SUMS, append_record, write_sums
from pellucid.cohort.deidentify.review_sheet import shown_stems
from pellucid.cohort.errors import UserError
from pellucid.cohort.runs.atomic_files import atomic_path, write_json
from pellucid.cohort.runs.checksums import sha256_file

REVIEWS = "review.json"


def record_review(
    out: Path, work: Path, key: Linkage, records: dict[str, dict[str, Any]], reviewer: str, show: str
) -> int:
    """Record a review and certify the DICOM files that the sheet shows.

    The name of the reviewer goes into the linkage file; `review.json` in the output has the day, the checksums of the
    sheet and the number of images. A file that the sheet does not show is not certified.

    Args:
        out: the finished output, its sheet unchanged since it was looked through.
        work: its hidden folder.
        key: the linkage file.
        records: what was done, by new name; takes the new checksums.
        reviewer: who has looked through the sheet.
        show: what the sheet shows, `sample` or `all`.

    Returns:
        How many files now state that their pixels are clean.
    """
    shown = shown_stems(records, show)
    sheets = {path.name: sha256_file(path) for path in sorted(out.glob("review*.html"))}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    sheet = hashlib.sha256("".join(sheets.values()).encode()).hexdigest()
    key.reviews.append({"reviewer": reviewer, "time": now, "output": str(out), "sheet": sheet})
    key.save(new=False)  # before any file says so
    (out / SUMS).unlink(missing_ok=True)
    for stem in sorted(shown):
        record = records[stem]
        if record["file"].endswith(".dcm") and not record.get("certified"):
            path = out / "raw" / record["file"]
            data = certified(path.read_bytes())
            with atomic_path(path) as temporary:
                temporary.write_bytes(data)
            record |= {"sha256": hashlib.sha256(data).hexdigest(), "certified": True}
            append_record(work, stem, record)
    before = json.loads((out / REVIEWS).read_text(encoding="utf-8")) if (out / REVIEWS).is_file() else []
    write_json(out / REVIEWS, [*before, {"time": now, "images_shown": len(shown), "sheets": sheets}])
    write_sums(out, records)
    return sum(bool(r.get("certified")) for r in records.values())


def refuse_unseen(out: Path, reviewer: str, *, finished: bool) -> None:
    """Refuse to record a review of something else than what lies in the output now.

    Raises:
        UserError: the sheet is not that of the output, or nobody is named.
    """
    if not reviewer.strip():
        raise UserError("reviewed-by: name the person who has looked through the review sheet")
    if not finished:
        raise UserError(
            f"{out}: its review sheet is missing, changed, or older than the images, the table or the options: repeat "
            f"the command without --reviewed-by, look through {out / 'review.html'}, and then repeat it with "
            "--reviewed-by"
        )
