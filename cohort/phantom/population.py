"""The phantom cohort: a study of invented patients whose truth is known, for the demo and the tests.

It has the form of a user's own folder: images, `clinical.csv` and `study.yaml`, and beside them `truth.json`,
which says what was planted and which no other command reads. A disease changes the lesion, devices and operators
change the picture, and one dial decides how far the diagnosis goes along with the device.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pellucid.cohort.errors import UserError
from pellucid.cohort.phantom.drawing import (
    DEVICES,
    OPERATORS,
    Dials,
    draw_image,
    jpeg_quality,
    patient_tissue,
)

SCHEMA = "pellucid.phantom/1"
UNFINISHED = ".phantom-unfinished"  # there while a study is being written; holds the config

DIAGNOSES = ("hyperplastic", "neoplastic")
SITES = ("harbour", "hillside", "riverside")
YEARS = tuple(range(2019, 2025))
SEVERITY_SHARES = {"hyperplastic": (0.75, 0.25, 0.0, 0.0), "neoplastic": (0.0, 0.15, 0.45, 0.40)}
OWN_DEVICE_SHARES = {"hyperplastic": (1.0, 0.0, 0.0), "neoplastic": (0.0, 0.5, 0.5)}  # under complete confounding
RECURRENCE_RISK = (0.10, 0.22, 0.42, 0.62)  # by severity
PNG_SHARE = 0.04
INVENTED_NAMES = (
    "KELLERMANN, ANNA",
    "OKONKWO, PAUL",
    "LINDQVIST, MAJA",
    "DUBOIS, HENRI",
    "MORETTI, CARLA",
    "NOVAK, JAN",
)

Share = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(ge=0, le=3)]


class PhantomConfig(BaseModel):
    """The dials of a phantom cohort. Strengths: 0 is none, 1 the default; shares are of 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    patients: int = Field(160, ge=4)
    images_per_patient: tuple[int, int] = (2, 5)  # fewest and most
    width_px: int = Field(320, ge=64)
    height_px: int = Field(240, ge=64)
    seed: int = Field(0, ge=0)
    disease: Strength = 1.0  # what severity does to border, colour and vessels of the lesion
    device: Strength = 1.0  # colour cast, sharpness, vignette, noise, JPEG quality
    operator: Strength = 1.0  # zoom, place of the lesion, tilt
    confounding: Share = 0.6  # 0: diagnosis independent of device; 1: each diagnosis has devices of its own
    within_patient: Share = 0.7  # correlation of tissue and lesion between a patient's images
    two_device_patients: Share = 0.1  # of the patients, imaged with two devices
    field: Literal["disc", "full", "mixed"] = "disc"
    prevalence: Share = 0.4  # of neoplastic among patients
    missing: Share = 0.05  # of ages
    blurred: Share = 0.03  # this and the following: of the images
    duplicated: Share = 0.01
    unreadable: Share = 0.01
    identifiers: Share = 0.02

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        fewest, most = self.images_per_patient
        if not 1 <= fewest <= most:
            raise ValueError(
                f"images_per_patient is ({fewest}, {most}): give the fewest and the most, at least 1, in that order"
            )
        if self.blurred + self.duplicated + self.unreadable + self.identifiers > 1:
            raise ValueError("blurred + duplicated + unreadable + identifiers is more than 1: no image is spoilt twice")
        return self


def write_phantom(folder: Path, config: PhantomConfig | None = None, *, sections: str = "") -> dict[str, Any]:
    """Draws the cohort into a new or empty `folder` and returns its truth, also written as `truth.json`.

    `sections` is YAML that ends its `study.yaml`, for example `pretrain: {images_seen: 640}`.

    `study.yaml` comes last, so that a folder which has one is whole; a call that was killed is made good by the
    same call. Raises UserError if the folder holds anything else.
    """
    config = PhantomConfig() if config is None else config
    folder = Path(folder)
    _claim(folder, config)
    files = plan_files(config)
    _write_images(folder / "images", files, config)
    table = files[[name for name in files.columns if not name.startswith("_")]]
    table.to_csv(folder / "clinical.csv", index=False)
    truth = phantom_truth(files, config)
    (folder / "truth.json").write_text(json.dumps(truth, indent=2) + "\n", encoding="utf-8")
    draft = folder / "study.yaml.partial"
    draft.write_text(_study_yaml(config) + sections, encoding="utf-8")
    draft.replace(folder / "study.yaml")
    (folder / UNFINISHED).unlink()
    return truth


def plan_patients(config: PhantomConfig) -> pd.DataFrame:
    """One row per patient, with `n_images`, `second_device` ("" for most) and `full_frame`; nothing is drawn.

    Variables are assigned in proportion, not drawn: each level as often as its share says, and operator, site and
    year balanced over all that is known of the patients. So the only associations are those asked for, and no
    harmless factor is associated with the diagnosis by chance.
    """
    rng = np.random.default_rng([config.seed, 0])
    n = config.patients
    diagnosis = rng.permutation(np.arange(n) < round(config.prevalence * n)).astype(int)
    frame = pd.DataFrame({"patient_id": [f"PH{i + 1:04d}" for i in range(n)]})
    frame["diagnosis"] = np.array(DIAGNOSES)[diagnosis]
    for name in DIAGNOSES:
        rows = frame.index[frame["diagnosis"] == name]
        frame.loc[rows, "severity"] = _deal(len(rows), SEVERITY_SHARES[name], rng)
    frame["severity"] = frame["severity"].astype(int)
    for severity, risk in enumerate(RECURRENCE_RISK):
        rows = frame.index[frame["severity"] == severity]
        frame.loc[rows, "recurrence"] = _deal(len(rows), (1 - risk, risk), rng)
    frame["recurrence"] = frame["recurrence"].astype(int)
    age = np.rint(np.clip(rng.normal(60, 11, n) + 4 * diagnosis, 19, 92)).astype(int)
    frame["age"] = pd.array(age, dtype="Int64")

    frame = frame.sort_values(["diagnosis", "severity", "recurrence", "age", "patient_id"])
    for name in DIAGNOSES:
        rows = frame.index[frame["diagnosis"] == name]
        frame.loc[rows, "device"] = np.array(list(DEVICES))[_deal(len(rows), device_shares(name, config), rng)]
    full = {"disc": 0.0, "full": 1.0, "mixed": 0.5}[config.field]
    frame["full_frame"] = _deal(n, (1 - full, full), rng).astype(bool)
    fewest, most = config.images_per_patient
    frame["n_images"] = fewest + _deal(n, [1 / (most - fewest + 1)] * (most - fewest + 1), rng)
    frame["older"] = frame["age"] > frame["age"].median()
    for column, levels in (("operator", tuple(OPERATORS)), ("site", SITES), ("year", YEARS)):
        frame[column] = np.array(levels)[_minimise(frame.drop(columns=["patient_id", "age"]), len(levels), rng)]
    frame = frame.drop(columns="older")

    frame = frame.sort_index()
    frame["second_device"] = ""
    several = frame.index[frame["n_images"] >= 2]
    for row in rng.permutation(several)[: round(config.two_device_patients * n)]:
        shares = np.array(device_shares(str(frame.loc[row, "diagnosis"]), config))
        shares[list(DEVICES).index(str(frame.loc[row, "device"]))] = 0
        if shares.sum() > 0:  # under complete confounding a diagnosis may have one device only
            frame.loc[row, "second_device"] = rng.choice(list(DEVICES), p=shares / shares.sum())
    frame.loc[rng.permutation(n)[: round(config.missing * n)], "age"] = pd.NA
    return frame


def device_shares(diagnosis: str, config: PhantomConfig) -> list[float]:
    """How the patients of one diagnosis divide among the devices."""
    own = OWN_DEVICE_SHARES[diagnosis]
    return [(1 - config.confounding) / len(own) + config.confounding * share for share in own]


def plan_files(config: PhantomConfig) -> pd.DataFrame:
    """One row per image file in the order of the table; columns that begin with `_` are not for the table.

    `_patient` and `_image` seed the drawing; `_spoilt` is "" or blurred, unreadable, identifiers or duplicated,
    `_how` its kind, and for a duplicate the file it copies.
    """
    rng = np.random.default_rng([config.seed, 1])
    patients = plan_patients(config)
    files = patients.loc[patients.index.repeat(patients["n_images"])].rename_axis("_patient").reset_index()
    files["_image"] = files.groupby("_patient").cumcount()
    other = (files["second_device"] != "") & (files["_image"] % 2 == 1)
    files["device"] = files["device"].where(~other, files["second_device"])

    n = len(files)
    files["_spoilt"], files["_how"], suffix = "", "", np.full(n, ".jpg", dtype=object)
    order = rng.permutation(n)
    kinds = {
        "blurred": ("defocus",),
        "unreadable": ("truncated", "empty", "text"),
        "identifiers": ("exif", "burned_in", "exif and burned_in"),
    }
    start = 0
    for spoilt, ways in kinds.items():
        rows = order[start : start + round(getattr(config, spoilt) * n)]
        start += len(rows)
        files.loc[rows, "_spoilt"] = spoilt
        files.loc[rows, "_how"] = np.resize(ways, len(rows))
    copied = order[start : start + round(config.duplicated * n)]
    sound = order[start + len(copied) :]
    suffix[sound[: round(PNG_SHARE * n)]] = ".png"
    suffix[files["_how"] == "text"] = ".png"
    files["_suffix"] = suffix

    copies = files.loc[copied].assign(_spoilt="duplicated", _how=[str(row) for row in copied])
    files = pd.concat([files, copies], ignore_index=True)
    number = rng.permutation(len(files)) + 1  # so that a name says nothing of the patient
    files.insert(
        0, "file_name", [f"{s}/img_{i:06d}{x}" for s, i, x in zip(files["site"], number, files["_suffix"], strict=True)]
    )
    is_copy = files["_spoilt"] == "duplicated"
    files.loc[is_copy, "_how"] = [files["file_name"][int(row)] for row in files.loc[is_copy, "_how"]]
    files = files.rename(columns={"full_frame": "_full_frame"}).drop(columns=["n_images", "second_device", "_suffix"])
    return files.iloc[np.argsort(number)].reset_index(drop=True)


def phantom_truth(files: pd.DataFrame, config: PhantomConfig) -> dict[str, Any]:
    """What was planted: per acquisition factor whether it shows and is confounded, and every spoilt file."""

    def planted(spoilt: str) -> dict[str, str]:
        chosen = files[files["_spoilt"] == spoilt]
        return dict(zip(chosen["file_name"], chosen["_how"], strict=True))

    return {
        "schema": SCHEMA,
        "config": config.model_dump(mode="json"),
        "images": len(files),
        "patients": config.patients,
        "acquisition": {
            "device": {"visible": config.device > 0, "confounded": config.confounding > 0},
            "operator": {"visible": config.operator > 0, "confounded": False},
            "site": {"visible": False, "confounded": False},
            "year": {"visible": False, "confounded": False},
        },
        "clinical": {
            "diagnosis": {"visible": config.disease > 0},
            "severity": {"visible": config.disease > 0},
            "age": {"visible": False},  # but four years higher in the neoplastic
            "recurrence": {"visible": False},  # but its risk rises with severity
        },
        "planted": {spoilt: planted(spoilt) for spoilt in ("blurred", "duplicated", "unreadable", "identifiers")},
    }


def _deal(n: int, shares: Sequence[float], rng: np.random.Generator) -> NDArray[np.intp]:
    """n level indices; up to any row, each level was given its share of the rows to within one; ties at random."""
    wanted, given = np.asarray(shares, dtype=float), np.zeros(len(shares))
    dealt = np.empty(n, dtype=np.intp)
    for i, lot in enumerate(1e-6 * rng.random((n, len(shares)))):
        dealt[i] = np.argmax(wanted * (i + 1) - given + lot)
        given[dealt[i]] += 1
    return dealt


def _minimise(known: pd.DataFrame, n_levels: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """A level for each row, so that the levels are as balanced as can be within every value of every column.

    Minimisation as in trials (Pocock and Simon, Biometrics 1975): in random order, each row gets the level that is
    rarest among the rows that share its values, each column with equal weight; ties at random.
    """
    codes = [pd.factorize(known[column])[0] for column in known.columns]
    share = [1 / np.bincount(code) for code in codes]
    given = [np.zeros((code.max() + 1, n_levels)) for code in codes]
    dealt = np.empty(len(known), dtype=np.intp)
    for row in rng.permutation(len(known)):
        excess = 1e-6 * rng.random(n_levels)
        for code, each, count in zip(codes, share, given, strict=True):
            excess += count[code[row]] * each[code[row]]
        dealt[row] = np.argmin(excess)
        for code, count in zip(codes, given, strict=True):
            count[code[row], dealt[row]] += 1
    return dealt


def _claim(folder: Path, config: PhantomConfig) -> None:
    """Makes sure that nothing of the user's is overwritten, and marks the folder as unfinished."""
    mark, signature = folder / UNFINISHED, config.model_dump_json()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: a phantom study needs a folder. Name a new one.")
    if folder.exists() and any(folder.iterdir()):
        ours = mark.is_file() and mark.read_text(encoding="utf-8") in ("", signature)
        if not ours:
            raise UserError(
                f"{folder} is not empty: a phantom study is written into a new or empty folder only, so that nothing "
                "is overwritten. Name another folder, or remove this one."
            )
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(signature, encoding="utf-8")


def _write_images(root: Path, files: pd.DataFrame, config: PhantomConfig) -> None:
    for site in SITES:
        (root / site).mkdir(parents=True, exist_ok=True)
    dials = Dials(config.disease, config.device, config.operator, config.within_patient)
    drawn = files[files["_spoilt"] != "duplicated"]
    for patient in drawn["_patient"].unique().tolist():
        rows = drawn[drawn["_patient"] == patient]
        tissue = patient_tissue(
            np.random.default_rng([config.seed, 2, patient]),
            config.height_px,
            full_frame=bool(rows["_full_frame"].iloc[0]),
        )
        for row in rows.to_dict("records"):
            rng = np.random.default_rng([config.seed, 3, patient, int(row["_image"])])
            picture = draw_image(
                tissue,
                rng,
                (config.width_px, config.height_px),
                severity=row["severity"],
                device=row["device"],
                operator=row["operator"],
                dials=dials,
                blur_px=3.5 * config.height_px / 240 if row["_spoilt"] == "blurred" else 0.0,
            )
            name = INVENTED_NAMES[rng.integers(len(INVENTED_NAMES))]
            born = f"{rng.integers(1, 29):02d}.{rng.integers(1, 13):02d}.{rng.integers(1935, 1995)}"
            if "burned_in" in row["_how"]:
                _burn_in(picture, f"{name} *{born}")
            data = _encode(picture, Path(row["file_name"]).suffix, jpeg_quality(row["device"], dials))
            if "exif" in row["_how"]:
                data = _with_header(data, f"Patient: {name}, born {born}")
            (root / row["file_name"]).write_bytes(_unreadable(data, row["_how"]))
    for row in files[files["_spoilt"] == "duplicated"].to_dict("records"):
        (root / row["file_name"]).write_bytes((root / row["_how"]).read_bytes())


def _encode(picture: NDArray[np.uint8], suffix: str, quality: int) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix == ".jpg" else []
    done, data = cv2.imencode(suffix, picture[..., ::-1], options)
    if not done:
        raise RuntimeError(f"OpenCV could not encode a {suffix} image")
    return data.tobytes()


def _unreadable(data: bytes, how: str) -> bytes:
    if how == "truncated":
        return data[: len(data) // 3]
    if how == "empty":
        return b""
    return b"This is a text, whatever the name of its file says.\n" if how == "text" else data


def _burn_in(picture: NDArray[np.uint8], text: str) -> None:
    """Writes as endoscopy processors do: white capitals, outlined, in the upper left corner."""
    scale = picture.shape[0] / 240
    strokes = [((dx, dy), (0, 0, 0)) for dx in (-1, 0, 1) for dy in (-1, 0, 1)] + [((0, 0), (255, 255, 255))]
    for (dx, dy), colour in strokes:  # a thicker stroke would be spaced more widely
        place = (round((5 + dx) * scale), round((15 + dy) * scale))
        cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.40 * scale, colour, 1, cv2.LINE_AA)


def _with_header(jpeg: bytes, text: str) -> bytes:
    """The same JPEG with an EXIF description and a comment that name a person; its pixels are not touched."""
    exif = Image.Exif()
    exif[0x010E] = text  # ImageDescription
    segments = b""
    for marker, content in ((b"\xff\xe1", exif.tobytes()), (b"\xff\xfe", text.encode())):
        segments += marker + (len(content) + 2).to_bytes(2, "big") + content
    return jpeg[:2] + segments + jpeg[2:]


def _study_yaml(config: PhantomConfig) -> str:
    return f"""\
# A phantom: every patient, image and name here was invented by a program (seed {config.seed}).
# truth.json states what was planted; no command reads it.
images: images/
table: clinical.csv
image: file_name
patient: patient_id
clinical: {{diagnosis: categorical, severity: ordinal, age: continuous}}
acquisition: {{device: categorical, operator: categorical, site: categorical, year: ordinal}}
outcome: {{recurrence: binary}}
split: {{test: 0.2, seed: 0}}
"""
