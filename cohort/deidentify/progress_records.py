"""Marks, records and resume of an interrupted de-identification."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pellucid.cohort.deidentify.cleaning_settings import CleaningSettings
from pellucid.cohort.deidentify.linkage_file import Linkage
from pellucid.cohort.intake.file_listing import Listing
from pellucid.cohort.runs.atomic_files import atomic_path, write_json
from pellucid.cohort.runs.checksums import sha256_file
from pellucid.cohort.study import Study

WORK_FOLDER = ".deidentify"  # inside the output: what is done already; names nobody

SUMS = "SHA256SUMS"


def file_marks(
    listing: Listing,
    patient_of: dict[str, str],
    without: dict[str, str],
    texts: dict[str, tuple[str, ...]],
    key: Linkage,
    settings: CleaningSettings,
) -> dict[str, str]:
    """For each new file a mark of all that it is made from: another mark, and it is made again."""
    how = hashlib.sha256(settings.mark().encode()).hexdigest()
    found = {}
    for image_id in listing.image_ids:
        status = (listing.root / image_id).stat()
        what = f"{image_id}\0{status.st_size}\0{status.st_mtime_ns}\0{patient_of[image_id]}\0{how}"
        what += without.get(image_id, "") + "\0".join(texts.get(patient_of[image_id], ()))
        found[key.files[image_id]] = key.digest("mark", what).hex()[:32]
    return found


def mark_of_all(study: Study, marks: dict[str, str], key: Linkage, show: str) -> str:
    """A mark of all that the whole output is made from, and of what its sheet shows."""
    digest = hashlib.sha256("".join(f"{stem}{mark}" for stem, mark in sorted(marks.items())).encode())
    digest.update(study.config.model_dump_json().encode())
    digest.update(sha256_file(study.table).encode() if study.table else b"")
    digest.update(show.encode())
    return key.digest("all", digest.hexdigest()).hex()[:32]


def last_shown(work: Path) -> str:
    """What the sheet showed that was written last: `sample` or `all`."""
    path = work / "finished.json"
    return str(json.loads(path.read_text(encoding="utf-8")).get("show", "sample")) if path.is_file() else "sample"


def write_finished(work: Path, whole: str, show: str) -> None:
    """Note that the output is complete."""
    write_json(work / "finished.json", {"mark": whole, "show": show})


def append_record(work: Path, stem: str, record: dict[str, Any]) -> None:
    """Note what was done with one file, at once: a killed command continues after it."""
    with (work / "records.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps({"stem": stem, **record}) + "\n")


def write_sums(out: Path, records: dict[str, dict[str, Any]]) -> None:
    """Write SHA256SUMS over all that may be handed on."""
    lines = [f"{r['sha256']}  raw/{r['file']}" for r in records.values() if r["status"] == "ok"]
    lines += [f"{sha256_file(p)}  {p.name}" for p in sorted(out.iterdir()) if p.is_file() and p.name != SUMS]
    with atomic_path(out / SUMS) as temporary:
        temporary.write_text("\n".join(sorted(lines, key=lambda line: line[66:])) + "\n", encoding="utf-8")


def read_records(work: Path, out: Path, key: Linkage, marks: dict[str, str]) -> dict[str, dict[str, Any]]:
    """What earlier calls did and still holds, by new name."""
    path = work / "records.jsonl"
    found: dict[str, dict[str, Any]] = {}
    if not path.is_file():
        return found
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
            stem = record.pop("stem")
        except ValueError:  # the line that a kill cut short
            continue
        whole = record["status"] != "ok" or _holds(out / "raw" / record["file"], record["sha256"])
        if marks.get(stem) == record["mark"] and whole:
            found[stem] = record
    with atomic_path(path) as temporary:
        temporary.write_text(
            "".join(json.dumps({"stem": s, **r}) + "\n" for s, r in sorted(found.items())), encoding="utf-8"
        )
    return found


def _holds(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_file(path) == sha256


def finished_output(out: Path, work: Path, whole: str, records: dict[str, dict[str, Any]]) -> bool:
    """Whether all that was written is there as it was written; the images have been compared with `records` already."""
    path = work / "finished.json"
    if not (out / SUMS).is_file() or not path.is_file():
        return False
    if json.loads(path.read_text(encoding="utf-8"))["mark"] != whole:
        return False
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in _lines(out / SUMS))}
    images = {f"raw/{r['file']}": r["sha256"] for r in records.values() if r["status"] == "ok"}
    others = {name: digest for name, digest in sums.items() if not name.startswith("raw/")}
    return (
        images == {name: digest for name, digest in sums.items() if name not in others}
        and {"clinical.csv", "study.yaml", "review.html"} <= others.keys()
        and all(_holds(out / name, digest) for name, digest in others.items())
    )


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()
