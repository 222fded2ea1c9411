"""The folder of the copy: which one may be written to, and to which linkage file it belongs."""

from __future__ import annotations

import json
from pathlib import Path

from pellucid.cohort.deidentify.cleaning_settings import SCHEMA
from pellucid.cohort.deidentify.linkage_file import Linkage
from pellucid.cohort.deidentify.progress_records import WORK_FOLDER
from pellucid.cohort.errors import UserError
from pellucid.cohort.runs.atomic_files import write_json
from pellucid.cohort.study import Study


def refuse_output(study: Study, out: Path, linkage: Path) -> None:
    """Refuse a wrong output before a linkage file is made: a secret key that belongs to nothing is one too many."""
    real = out.resolve()
    for what, folder in (("the folder of the images", study.image_root), ("the analysis folder", study.analysis)):
        if real.is_relative_to(folder):
            raise UserError(f"{out}: the output may not lie in {what} ({folder}): name a folder outside of it")
    for what, inside in (("study.yaml", study.path), ("the images", study.image_root)):
        if inside.resolve().is_relative_to(real):
            raise UserError(f"{out}: holds {what} of the study itself: name a new folder")
    if real.exists() and not real.is_dir():
        raise UserError(f"{out}: is a file: name a new folder")
    if real.is_dir() and any(real.iterdir()) and not (real / WORK_FOLDER).is_dir():
        raise UserError(f"{out}: is not empty, and not made by `pellucid deidentify`: name a new folder")
    if (real / WORK_FOLDER / "output.json").is_file() and not linkage.exists():
        raise UserError(
            f"{linkage}: is not there, and {out} was made with a linkage file: name that one, or a new folder "
            "(patients would get second names here)"
        )


def open_output(out: Path, key: Linkage) -> Path:
    """The folder of what is done already; binds the output to its linkage file."""
    work = out / WORK_FOLDER
    check = key.digest("output", "belongs to this linkage file").hex()
    if (work / "output.json").is_file():
        known = json.loads((work / "output.json").read_text(encoding="utf-8"))
        if known["check"] != check:
            raise UserError(
                f"{out}: was made with another linkage file: name that one, or a new folder (patients would get second "
                "names here)"
            )
        return work
    work.mkdir(parents=True, exist_ok=True)
    write_json(work / "output.json", {"schema": SCHEMA, "check": check})
    return work
