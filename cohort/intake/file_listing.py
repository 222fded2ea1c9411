"""Which files of a study are images: the listing that the scan's key is made of."""

from __future__ import annotations

import errno
import functools
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pellucid.cohort.errors import UserError
from pellucid.cohort.path_pattern import patients_in_paths
from pellucid.cohort.readers import IMAGE_SUFFIXES, UNREAD_SUFFIXES, sniff, unread_image
from pellucid.cohort.study import FromPath, Study
from pellucid.cohort.withdrawal_list import Withdrawn

LINKED_FOLDER = "linked folder out of the folder"
_NO_ENDING = "no ending"
_NAMED = 20  # files that a note names one by one


@dataclass(frozen=True)
class Listing:
    """The image files of a study, in a fixed order.

    Attributes:
        root: folder that the ids are relative to.
        image_ids: posix paths relative to `root`, sorted.
        n_bytes: size of each file.
        ignored: number of files skipped, by ending.
        refused: name and reason of each file that cannot be opened, for example because its name is not UTF-8.
        fingerprint: sha256 over every file's id, size and time of change.
        hollow: files without an ending that are empty or begin with zeros only.
        withdrawn: number of files skipped because consent was withdrawn; they are in none of the above.
    """

    root: Path
    image_ids: tuple[str, ...]
    n_bytes: tuple[int, ...]
    ignored: dict[str, int]
    fingerprint: str
    withdrawn: int = 0
    refused: tuple[tuple[str, str], ...] = ()
    hollow: tuple[str, ...] = ()

    def notes(self, *, skipped: bool = True) -> list[str]:
        """What was not listed as an image, and why.

        Args:
            skipped: count the files that are no images, too.
        """
        notes = []
        linked = self.ignored.get(LINKED_FOLDER, 0)
        if linked:
            notes.append(
                f"{linked} linked folder(s) lead out of {self.root} and are not followed, as linked files are not: "
                "move or copy the files into it, or let `images` name a folder that holds all of them"
            )
        others = {what: count for what, count in self.ignored.items() if what != LINKED_FOLDER}
        if others and skipped:
            passed = ", ".join(f"{count} × {what}" for what, count in sorted(others.items()))
            notes.append(f"skipped files that are not images ({passed})")
        if self.hollow and skipped:
            notes.append(
                f"{len(self.hollow)} of these have no ending and are empty or begin with zeros only, as after an "
                f"interrupted copy ({', '.join(f'`{name}`' for name in self.hollow[:3])}): if they were images, copy "
                "them again"
            )
        notes += [f"`{name}` is left out: {reason}" for name, reason in self.refused[:_NAMED]]
        if len(self.refused) > _NAMED:
            notes.append(f"{len(self.refused) - _NAMED} more files are left out for such reasons")
        return notes


def list_images(study: Study, withdrawn: Withdrawn | None = None) -> Listing:
    """Walk the study's image folder, or expand its globs.

    A file's first bytes decide whether it is an image, then its ending: what is called an image and is none is listed,
    so that it is counted as damaged. Hidden files and the analysis folder are skipped. Links to files and folders are
    followed inside the root; one that leads out of it is not. Files of patients who withdrew consent are not read.

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
    paths = set()
    for pattern in images:
        if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            raise UserError(f"{study.path}: `images: {pattern}` leads out of {root}: give patterns of files below it")
        paths |= {path for path in root.glob(pattern) if not path.is_dir() and _shown(path.relative_to(root))}
    inside = sorted(path for path in paths if not path.is_relative_to(study.analysis))
    return _listing(root, inside, f"{study.path}: no file matches `images: {images}` below {root}", withdrawn, rule)


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
    found = list(_walk(root, root.resolve(), skip, (root.resolve(),)))
    return _listing(root, found, f"{root}: there is no image in this folder", withdrawn, patient_rule)


def _walk(folder: Path, root: Path, skip: Path | None, above: tuple[Path, ...]) -> Iterator[Path]:
    """The files below a folder, through linked folders inside the root; a link that is not followed comes as a file.

    Args:
        folder: where to begin.
        root: the resolved root.
        skip: a folder to leave out.
        above: the resolved folders that lead here: a link to one of them is a circle.
    """
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = folder / entry.name
            if entry.name.startswith(".") or path == skip:
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(path, root, skip, (*above, above[-1] / entry.name))
            elif entry.is_symlink() and path.is_dir():
                target = path.resolve()
                if target in above or not target.is_relative_to(root):
                    yield path
                elif skip is None or target != skip.resolve():
                    yield from _walk(path, root, skip, (*above, target))
            else:
                yield path


def _shown(path: Path) -> bool:
    return not any(part.startswith(".") for part in path.parts)


def _listing(
    root: Path, paths: list[Path], empty: str, withdrawn: Withdrawn | None = None, patient_rule: str | None = None
) -> Listing:
    stats: dict[str, os.stat_result] = {}
    ignored: Counter[str] = Counter()
    refused: dict[str, str] = {}
    hollow: list[str] = []
    resolved_root = root.resolve()
    resolved = functools.cache(Path.resolve)  # once for each folder, not for each of its files
    gone = _withdrawn_paths(root, paths, withdrawn, patient_rule)
    for path in paths:
        if path in gone:
            continue
        name = path.relative_to(root).as_posix()
        try:
            what = _what_is_not_listed(path, resolved_root, resolved)
            if what is None:
                name.encode()
                stats[name] = path.stat()
            else:
                ignored[what] += 1
                if what == _NO_ENDING and not any(_begin(path)):
                    hollow.append(name)
        except UnicodeEncodeError:
            shown = os.fsencode(name).decode("utf-8", "backslashreplace")
            refused[shown] = "its name is not UTF-8: rename it"
        except FileNotFoundError:  # or a file that went while we looked
            ignored["link to nothing"] += 1
        except (OSError, RuntimeError) as error:  # RuntimeError: a circle of links, before Python 3.13
            if isinstance(error, OSError) and error.errno != errno.ELOOP:
                refused[name] = f"it cannot be opened ({error.strerror})"
            else:
                refused[name] = "a circle of links"
    if not stats:
        seen = ", ".join(f"{n} × {suffix}" for suffix, n in ignored.most_common(5)) or "it is empty"
        raise UserError(f"{empty} ({seen}); readable are JPEG, PNG, WebP, BMP, GIF, AVIF, TIFF, DICOM and whole slides")
    digest = hashlib.sha256()
    ids = tuple(sorted(stats))
    sizes = []
    for image_id in ids:
        stat = stats[image_id]
        sizes.append(stat.st_size)
        digest.update(f"{image_id}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return Listing(
        root, ids, tuple(sizes), dict(ignored), digest.hexdigest(), len(gone), tuple(refused.items()), tuple(hollow)
    )


def _what_is_not_listed(path: Path, root: Path, resolved: Callable[[Path], Path]) -> str | None:
    """Under which name a file is counted as skipped; None for an image, and for what is called one.

    Args:
        path: a file below the root, perhaps through linked folders.
        root: the resolved root.
        resolved: folder → where it really is.

    Raises:
        OSError, RuntimeError: it cannot be opened.
    """
    linked = path.is_symlink()
    target = path.resolve(strict=True) if linked else resolved(path.parent) / path.name
    if not target.is_relative_to(root):
        return LINKED_FOLDER if target.is_dir() else "link out of the folder"
    if linked and target.is_dir():
        raise OSError(errno.ELOOP, "a circle of links")
    if not path.is_file():
        return "not a regular file"
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES or suffix in UNREAD_SUFFIXES or path.name.lower().endswith(".nii.gz"):
        return None
    first = _begin(path)
    return None if sniff(first) or unread_image(first) else _ending(suffix)


def _begin(path: Path) -> bytes:
    with path.open("rb") as handle:
        return handle.read(512)


def _ending(suffix: str) -> str:
    return suffix.encode("utf-8", "replace").decode() or _NO_ENDING


def _withdrawn_paths(root: Path, paths: list[Path], withdrawn: Withdrawn | None, patient_rule: str | None) -> set[Path]:
    if withdrawn is None or not withdrawn.entries:
        return set()
    known = [path for path in paths if _is_utf8(str(path))]
    files = [path.relative_to(root).as_posix() for path in known]
    gone = withdrawn.which_files(files)
    if patient_rule is not None:
        gone |= withdrawn.which_patients(patients_in_paths(patient_rule, files))
    return {path for path, out in zip(known, gone, strict=True) if out}


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_inputs(fingerprint: str, withdrawn: Withdrawn) -> dict[str, str]:
    """The inputs that a `read` run is addressed by."""
    frames = withdrawn.frames_fingerprint
    return {"files": fingerprint, **({"withdrawn frames": frames} if frames else {})}
