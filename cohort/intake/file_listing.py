"""Which files of a study are images: the listing that the scan's key is made of."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pellucid.cohort.errors import UserError
from pellucid.cohort.readers import IMAGE_SUFFIXES, sniff
from pellucid.cohort.study import FromPath, Study
from pellucid.cohort.withdrawal_list import Withdrawn


@dataclass(frozen=True)
class Listing:
    """The image files of a study, in a fixed order.

    Attributes:
        root: folder that the ids are relative to.
        image_ids: posix paths relative to `root`, sorted.
        n_bytes: size of each file.
        ignored: number of files skipped, by ending.
        fingerprint: sha256 over every file's id, size and time of change.
        withdrawn: number of files skipped because consent was withdrawn; they are in none of the above.
    """

    root: Path
    image_ids: tuple[str, ...]
    n_bytes: tuple[int, ...]
    ignored: dict[str, int]
    fingerprint: str
    withdrawn: int = 0


def list_images(study: Study, withdrawn: Withdrawn | None = None) -> Listing:
    """Walk the study's image folder, or expand its globs.

    Hidden files and the analysis folder are skipped; a link that leads out of the root, or in a circle, is not
    followed. Files of patients who withdrew consent are not even opened.

    Args:
        withdrawn: who withdrew; None: the study's own list.

    Raises:
        UserError: the folder is missing, or there is no image in it.
    """
    root = study.image_root
    withdrawn = Withdrawn.load(study.withdrawn) if withdrawn is None else withdrawn
    rule = study.config.patient.from_path if isinstance(study.config.patient, FromPath) else None
    images = study.config.images
    if isinstance(images, str):
        if not root.is_dir():
            raise UserError(
                f"{study.path}: `images` is {images!r}, but {root} is not a folder: correct it, or give "
                "images=FOLDER on the command line"
            )
        return list_folder(root, study.analysis, withdrawn, rule)
    paths = sorted({path for pattern in images for path in root.glob(pattern) if path.is_file()})
    return _listing(root, paths, f"{study.path}: no file matches `images: {images}` below {root}", withdrawn, rule)


def list_folder(
    root: Path, skip: Path | None = None, withdrawn: Withdrawn | None = None, patient_rule: str | None = None
) -> Listing:
    """Every image below a folder; see `list_images`.

    Args:
        skip: a folder to leave out.
        withdrawn: patients whose files are skipped.
        patient_rule: regular expression whose group is the patient's id; it recognises new files of a withdrawn
            patient.
    """
    found: list[Path] = []
    for folder, subfolders, files in os.walk(root, followlinks=False):
        here = Path(folder)
        subfolders[:] = sorted(s for s in subfolders if not s.startswith(".") and here / s != skip)
        found.extend(here / name for name in files if not name.startswith("."))
    return _listing(root, found, f"{root}: there is no image in this folder", withdrawn, patient_rule)


def _listing(
    root: Path, paths: list[Path], empty: str, withdrawn: Withdrawn | None = None, patient_rule: str | None = None
) -> Listing:
    stats: dict[str, os.stat_result] = {}
    ignored: Counter[str] = Counter()
    resolved_root = root.resolve()
    for path in paths:
        suffix = path.suffix.lower()
        outside = path.is_symlink() and not path.resolve().is_relative_to(resolved_root)
        if outside:
            ignored["link out of the folder"] += 1
        elif suffix in IMAGE_SUFFIXES or ((suffix == "" or suffix[1:].isdigit()) and _may_be_dicom(path)):
            try:
                stats[path.relative_to(root).as_posix()] = path.stat()
            except OSError:  # a link to nothing, or a file that went while we looked
                ignored["link to nothing"] += 1
        else:
            ignored[suffix or "no ending"] += 1
    gone = _withdrawn(list(stats), withdrawn, patient_rule)
    for image_id in gone:
        del stats[image_id]
    if not stats:
        seen = ", ".join(f"{n} × {suffix}" for suffix, n in ignored.most_common(5)) or "it is empty"
        raise UserError(f"{empty} ({seen}); readable are JPEG, PNG, WebP, BMP, GIF, TIFF, DICOM and whole slides")
    digest = hashlib.sha256()
    ids = tuple(sorted(stats))
    sizes = []
    for image_id in ids:
        stat = stats[image_id]
        sizes.append(stat.st_size)
        digest.update(f"{image_id}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return Listing(root, ids, tuple(sizes), dict(ignored), digest.hexdigest(), len(gone))


def _withdrawn(files: list[str], withdrawn: Withdrawn | None, patient_rule: str | None) -> list[str]:
    if withdrawn is None or not withdrawn.entries:
        return []
    gone = withdrawn.which_files(files)
    if patient_rule is not None:
        pattern = re.compile(patient_rule)
        owners = [match.group(1) if (match := pattern.search(file)) else None for file in files]
        gone |= withdrawn.which_patients(owners)
    return [file for file, out in zip(files, gone, strict=True) if out]


def _may_be_dicom(path: Path) -> bool:
    """DICOM archives often name files without an ending, or by a UID whose last part looks like one."""
    try:
        with path.open("rb") as handle:
            return sniff(handle.read(140)) == "dicom"
    except OSError:
        return False


def read_inputs(fingerprint: str, withdrawn: Withdrawn) -> dict[str, str]:
    """The inputs that a `read` run is addressed by."""
    frames = withdrawn.frames_fingerprint
    return {"files": fingerprint, **({"withdrawn frames": frames} if frames else {})}
