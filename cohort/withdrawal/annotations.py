"""Remove lines from annotation files."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from pellucid.cohort.runs.atomic_files import atomic_path
from pellucid.cohort.withdrawal_list import Withdrawn


def annotated_files(folder: Path, withdrawn: Withdrawn) -> dict[Path, int]:
    """Files of the annotation folder that speak of withdrawn images, and how many of their lines do."""
    found = {}
    for path in sorted(folder.glob("*")):
        if path.suffix in {".csv", ".jsonl"} and path.is_file():
            n = _kept_lines(path, withdrawn)[1]
            if n:
                found[path] = n
    return found


def forget_annotations(folder: Path, withdrawn: Withdrawn) -> int:
    """Take what people said of withdrawn images out of the annotation folder; how many lines went."""
    count = 0
    for path in annotated_files(folder, withdrawn):
        kept, n = _kept_lines(path, withdrawn)
        with atomic_path(path) as temporary:
            temporary.write_text(kept, encoding="utf-8", newline="")
        count += n
    return count


def _kept_lines(path: Path, withdrawn: Withdrawn) -> tuple[str, int]:
    """The text without the lines of withdrawn images (a `.csv` with a column image_id, a `.jsonl` with such a key)."""
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    if path.suffix == ".jsonl":
        lines = text.splitlines(keepends=True)
        ids = [_image_of(line) for line in lines]
        gone = withdrawn.which(ids)
        return "".join(line for line, out in zip(lines, gone, strict=True) if not out), int(gone.sum())
    rows = list(csv.reader(io.StringIO(text, newline="")))
    if not rows or "image_id" not in rows[0]:
        return text, 0
    place = rows[0].index("image_id")
    gone = withdrawn.which([row[place] if place < len(row) else "" for row in rows[1:]])
    if not gone.any():
        return text, 0
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([rows[0], *(row for row, away in zip(rows[1:], gone, strict=True) if not away)])
    return out.getvalue(), int(gone.sum())


def _image_of(line: str) -> str:
    try:
        content = json.loads(line)
    except ValueError:
        return ""
    return str(content.get("image_id", "")) if isinstance(content, dict) else ""
