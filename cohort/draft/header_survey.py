"""What `init` proposes from the files' own headers: acquisition factors, the patient and the specialty."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pellucid.cohort.intake.sandbox import ReaderDied, run_apart
from pellucid.cohort.readers import read_image
from pellucid.cohort.study import ScanConfig

MAX_FILES = 200
MAX_LEVELS = 30
TIME_LIMIT_S = 20.0
_MAX_BYTES = 64 << 20
_LIMITS = ScanConfig(time_limit_s=10)
# Values of these are counted and shown; of all others (people, hospitals, machines, free text) only the number.
_SHOWN = frozenset(
    {
        "manufacturer",
        "model",
        "software",
        "lens",
        "year",
        "modality",
        "body_part",
        "view",
        "laterality",
        "kernel",
        "kvp",
    }
    | {"slice_thickness", "magnification", "flash", "format", "bits", "width", "height"}
    | {"exposure_time", "f_number", "iso", "focal_length", "um_per_px"}
)
_NEVER = frozenset({"patient_id", "date"})  # the patient is no factor; the year represents a date
_OF_FILE = ("format", "bits", "width", "height")
_SPECIALTY = {
    "US": "ultrasound",
    "IVUS": "ultrasound",
    "OP": "fundus",
    "OPT": "oct",
    "CT": "ct",
    "ES": "endoscopy",
    "XC": "dermatology",  # external-camera photography: most often of skin
    "SM": "pathology",
    "GM": "pathology",
    **dict.fromkeys(("CR", "DX", "DR", "MG", "RF", "RG", "PX", "IO"), "radiograph"),
}


class Headers:
    """Header facts of a sample of files.

    Attributes:
        n: how many files were read.
        facts: {name in study.yaml: the value of each file read, "" where the file is silent}.
        patients: PatientID of each file read.
    """

    def __init__(self, found: Sequence[Mapping[str, str]]) -> None:
        self.n = len(found)
        names = sorted({name for header in found for name in header})
        values = {name: [header.get(name, "") for header in found] for name in names}
        self.patients = values.get("patient_id", [""] * self.n)
        self.facts = {
            name if name in _OF_FILE else f"header_{name}": values[name] for name in names if name not in _NEVER
        }

    @property
    def names_patients(self) -> bool:
        """Does every file name its patient, and not all the same one?"""
        return all(self.patients) and len(set(self.patients)) > 1

    @property
    def specialty(self) -> tuple[str, str]:
        """The specialty that more than half of all files' modality speaks of, and that modality; empty where none
        does."""
        counts = Counter(value for value in self.facts.get("header_modality", []) if value)
        modality, n = counts.most_common(1)[0] if counts else ("", 0)
        found = _SPECIALTY.get(modality.upper(), "")
        return (found, modality) if found and 2 * n > self.n else ("", "")


def read_headers(root: Path, image_ids: Sequence[str], time_limit_s: float = TIME_LIMIT_S) -> Headers:
    """Read up to 200 files, evenly spaced over the listing, or as many as the time allows; unreadable ones are skipped.

    The files are decoded at their smallest scale by the reader that the scan uses, so that the names are the same.
    """
    step = max(1.0, len(image_ids) / MAX_FILES)
    chosen = [image_ids[int(k * step)] for k in range(min(len(image_ids), MAX_FILES))]
    spread = [name for start in range(7) for name in chosen[start::7]]  # what is read is spread out if time runs short
    until = time.monotonic() + time_limit_s
    found: list[dict[str, str]] = []
    for image_id in spread:
        if time.monotonic() > until:
            break
        with suppress(ReaderDied):  # a file that crashes its decoder is skipped like any other that is unreadable
            found += run_apart(_LIMITS, header_of, root / image_id)
    return Headers(found)


def header_of(path: Path) -> list[dict[str, str]]:
    """What one file states; empty where it cannot be read."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            return []
        picture = read_image(path.read_bytes(), min_side_px=16)
    except Exception:  # whatever a decoder raises: the scan names the file and the reason
        return []
    own = {"format": picture.format, "bits": str(picture.bits)}
    own |= {"width": str(picture.width), "height": str(picture.height)}
    return [{**picture.header, **own}]


def factor_lines(headers: Headers) -> tuple[list[str], list[str]]:
    """Lines for `acquisition:` (fields of 2 to 30 levels), and comments on the fields that were left out."""
    kept, left_out = [], []
    for name, values in headers.facts.items():
        counts = Counter(value for value in values if value)
        n_levels, gaps = len(counts), values.count("")
        where = f"{headers.n} files looked at"
        if n_levels < 2:
            if name not in _OF_FILE:
                left_out.append(f"# left out: {name}: the same in all {headers.n - gaps} files that say it, of {where}")
        elif n_levels > MAX_LEVELS:
            left_out.append(f"# left out: {name}: {n_levels} different values in {where}")
        else:
            kept.append(
                f"  {name}: {_kind(name, counts)}  # {n_levels} levels in {where}{_shown(name, counts)}{_gaps(gaps)}"
            )
    return kept, left_out


def _kind(name: str, counts: Counter[str]) -> str:
    if name == "header_year" and all(value.isdigit() for value in counts):
        return "ordinal"
    return "continuous" if name in {"width", "height"} and len(counts) > 8 else "categorical"


def _shown(name: str, counts: Counter[str]) -> str:
    if name.removeprefix("header_") not in _SHOWN:
        return " (not shown: they may name people)"
    most = sorted(counts, key=lambda value: (-counts[value], value))[:4]
    most = [" ".join(value.split())[:40] for value in most]
    return ": " + ", ".join(most) + (", …" if len(counts) > 4 else "")


def _gaps(gaps: int) -> str:
    return f"; {gaps} files do not say" if gaps else ""
