"""The phantom cohort is what it says: determined by its seed, true to its dials, and honest about what it planted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml
from numpy.typing import NDArray
from pydantic import ValidationError

from pellucid.cohort.errors import UserError
from pellucid.cohort.phantom import population
from pellucid.cohort.phantom.drawing import (
    DEVICES,
    OPERATORS,
    Dials,
    draw_image,
    draw_traits,
    field_of_view,
    jpeg_quality,
    lesion_shape,
    patient_tissue,
)
from pellucid.cohort.phantom.population import (
    UNFINISHED,
    PhantomConfig,
    device_shares,
    phantom_truth,
    plan_files,
    plan_patients,
    write_phantom,
)

SMALL = {"patients": 12, "width_px": 160, "height_px": 120}
SPOILT = {"blurred": 0.1, "duplicated": 0.1, "unreadable": 0.15, "identifiers": 0.15}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "study"
    write_phantom(folder, PhantomConfig(**SMALL, **SPOILT))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def cramers_v(a: pd.Series[Any], b: pd.Series[Any]) -> float:
    table = pd.crosstab(a, b).to_numpy(dtype=float)
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    chi2 = ((table - expected) ** 2 / expected).sum()
    return float(np.sqrt(chi2 / table.sum() / (min(table.shape) - 1)))


def picture(
    seed: int = 0,
    *,
    severity: int = 0,
    device: str = "Aurora 1",
    operator: str = "A",
    image: int = 0,
    full_frame: bool = False,
    blur_px: float = 0.0,
    **dials: float,
) -> NDArray[np.uint8]:
    return draw_image(
        patient_tissue(np.random.default_rng([seed, 0]), 120, full_frame=full_frame),
        np.random.default_rng([seed, 1, image]),
        (160, 120),
        severity=severity,
        device=device,
        operator=operator,
        dials=Dials(**dials),
        blur_px=blur_px,
    )


def difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(np.abs(a.astype(float) - b).mean())


# ------------------------------------------------------------------------------------------------- the folder


@pytest.mark.long
def test_same_seed_same_bytes_and_another_seed_other_images(study: Path, tmp_path: Path) -> None:
    write_phantom(tmp_path / "again", PhantomConfig(**SMALL, **SPOILT))
    assert contents(tmp_path / "again") == contents(study)
    write_phantom(tmp_path / "other", PhantomConfig(**SMALL, **SPOILT, seed=1))
    ours, theirs = (
        {v for k, v in contents(f).items() if k.endswith(".jpg") and v} for f in (study, tmp_path / "other")
    )
    assert not ours & theirs


def test_opencv_threads_do_not_change_the_bytes() -> None:
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        one = picture(severity=3)
        cv2.setNumThreads(4)
        assert np.array_equal(one, picture(severity=3))
    finally:
        cv2.setNumThreads(before)


def test_study_yaml_names_columns_that_exist(study: Path) -> None:
    text = (study / "study.yaml").read_text(encoding="utf-8")
    assert text.startswith("# A phantom")
    said, table = yaml.safe_load(text), pd.read_csv(study / "clinical.csv")
    assert set(said) == {"images", "table", "image", "patient", "clinical", "acquisition", "outcome", "split"}
    named = {said["image"], said["patient"], *said["clinical"], *said["acquisition"], *said["outcome"]}
    assert named == set(table.columns)
    assert (study / said["images"]).is_dir()
    assert not (study / UNFINISHED).exists()


def test_one_row_per_file_and_names_say_no_more_than_the_site(study: Path) -> None:
    table = pd.read_csv(study / "clinical.csv")
    files = {p.relative_to(study / "images").as_posix() for p in (study / "images").rglob("*") if p.is_file()}
    assert set(table["file_name"]) == files
    assert len(table) == len(files)
    assert table["file_name"].str.fullmatch(r"(harbour|hillside|riverside)/img_\d{6}\.(jpg|png)").all()
    assert (table["file_name"].str.split("/").str[0] == table["site"]).all()
    assert not table["patient_id"].is_monotonic_increasing


def test_spoilt_files_are_as_many_as_asked_and_are_what_truth_says(study: Path) -> None:
    truth = json.loads((study / "truth.json").read_text(encoding="utf-8"))
    planted, images = truth["planted"], study / "images"
    n = truth["images"] - len(planted["duplicated"])
    assert {kind: len(names) for kind, names in planted.items()} == {k: round(v * n) for k, v in SPOILT.items()}
    names = [name for kind in planted.values() for name in kind]
    assert len(set(names)) == len(names)

    table = pd.read_csv(study / "clinical.csv").set_index("file_name")
    for copy, original in planted["duplicated"].items():
        assert (images / copy).read_bytes() == (images / original).read_bytes()
        assert table.loc[copy, "patient_id"] == table.loc[original, "patient_id"]
    assert set(planted["unreadable"].values()) == {"truncated", "empty", "text"}
    for name, how in planted["unreadable"].items():
        data = (images / name).read_bytes()
        assert {"empty": data == b"", "text": data.isascii(), "truncated": data[-2:] != b"\xff\xd9"}[how]
        assert name.endswith(".png" if how == "text" else ".jpg")
    for name, how in planted["identifiers"].items():
        assert (b"Patient: " in (images / name).read_bytes()) == ("exif" in how)
        assert cv2.imread(str(images / name)).shape == (120, 160, 3)
    unreadable = set(planted["unreadable"])
    for name in table.index.difference(list(unreadable)):
        assert cv2.imread(str(images / str(name))).shape == (120, 160, 3)
    assert any(name.endswith(".png") for name in table.index.difference(list(unreadable)))


def test_a_folder_with_content_is_refused_and_left_alone(study: Path, tmp_path: Path) -> None:
    before = contents(study)
    message = (
        r"is not empty: a phantom study is written into a new or empty folder only, so that nothing is overwritten"
    )
    with pytest.raises(UserError, match=message):
        write_phantom(study, PhantomConfig(**SMALL))
    assert contents(study) == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"is a file: a phantom study needs a folder. Name a new one\."):
        write_phantom(tmp_path / "file")


def test_a_killed_write_has_no_study_and_is_made_good_by_the_same_call(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folder = PhantomConfig(**SMALL, **SPOILT), tmp_path / "study"

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(population, "phantom_truth", killed)
        with pytest.raises(KeyboardInterrupt):
            write_phantom(folder, config)
    assert not (folder / "study.yaml").exists()
    with pytest.raises(UserError, match="is not empty"):
        write_phantom(folder, PhantomConfig(**SMALL, seed=9))
    write_phantom(folder, config)
    assert contents(folder) == contents(study)


# -------------------------------------------------------------------------------------------------- the table


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("confounding", [0.0, 0.6, 1.0])
def test_only_the_device_goes_along_with_the_diagnosis(seed: int, confounding: float) -> None:
    config = PhantomConfig(seed=seed, confounding=confounding)
    for table in (plan_patients(config), plan_files(config)):
        association = cramers_v(table["diagnosis"], table["device"])
        low, high = {0.0: (0.0, 0.15), 0.6: (0.5, 0.7), 1.0: (0.999, 1.001)}[confounding]
        assert low <= association <= high
        assert table["device"].nunique() == 3
        for harmless in ("operator", "site", "year"):
            for other in ("diagnosis", "device", "severity", "recurrence"):
                assert cramers_v(table[harmless], table[other]) < 0.15, (harmless, other)


def test_what_belongs_to_the_patient_is_constant_within_patients() -> None:
    config = PhantomConfig(two_device_patients=0.25)
    files = plan_files(config)
    per_patient = files.groupby("patient_id")
    for column in ("diagnosis", "severity", "age", "recurrence", "operator", "site", "year"):
        assert (per_patient[column].nunique(dropna=False) == 1).all(), column
    assert (per_patient["device"].nunique() == 2).sum() == 40
    assert per_patient["device"].nunique().max() == 2
    sizes = files[files["_spoilt"] != "duplicated"].groupby("patient_id").size()
    assert (sizes.min(), sizes.max(), len(sizes)) == (2, 5, 160)


def test_prevalence_missing_ages_and_risk_are_those_asked_for() -> None:
    table = plan_patients(PhantomConfig(patients=200, prevalence=0.3, missing=0.1))
    assert (table["diagnosis"] == "neoplastic").sum() == 60
    assert table["age"].isna().sum() == 20
    assert table["severity"].between(0, 3).all()
    assert table["year"].between(2019, 2024).all()
    assert table.groupby("severity")["recurrence"].mean().is_monotonic_increasing
    assert table.loc[table["diagnosis"] == "hyperplastic", "severity"].max() == 1


def test_device_shares_are_shares() -> None:
    for confounding in (0.0, 0.3, 1.0):
        for diagnosis in ("hyperplastic", "neoplastic"):
            assert sum(device_shares(diagnosis, PhantomConfig(confounding=confounding))) == pytest.approx(1)


def test_truth_follows_the_dials() -> None:
    def factors(**dials: float) -> dict[str, Any]:
        config = PhantomConfig(**SMALL, **dials)
        truth: dict[str, Any] = phantom_truth(plan_files(config), config)["acquisition"]
        return truth

    assert factors() == {
        "device": {"visible": True, "confounded": True},
        "operator": {"visible": True, "confounded": False},
        "site": {"visible": False, "confounded": False},
        "year": {"visible": False, "confounded": False},
    }
    assert factors(confounding=0)["device"] == {"visible": True, "confounded": False}
    assert factors(device=0, operator=0)["device"] == {"visible": False, "confounded": True}
    assert not factors(operator=0)["operator"]["visible"]


def test_mistaken_dials_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"images_per_patient is \(5, 2\): give the fewest and the most"):
        PhantomConfig(images_per_patient=(5, 2))
    with pytest.raises(ValidationError, match="no image is spoilt twice"):
        PhantomConfig(blurred=0.6, unreadable=0.6)
    with pytest.raises(ValidationError, match="confounding"):
        PhantomConfig(confounding=1.5)


# ------------------------------------------------------------------------------------------------- the images


def test_a_dial_at_zero_leaves_no_trace() -> None:
    assert np.array_equal(picture(severity=0, disease=0), picture(severity=3, disease=0))
    for dial, argument, levels in (("device", "device", DEVICES), ("operator", "operator", OPERATORS)):
        off = [_with(dial, 0.0, argument, level) for level in levels]
        on = [_with(dial, 1.0, argument, level) for level in levels]
        assert all(np.array_equal(off[0], other) for other in off[1:])
        assert all(difference(on[0], other) > 4 for other in on[1:])
    assert {jpeg_quality(device, Dials(device=0)) for device in DEVICES} == {88}
    assert len({jpeg_quality(device, Dials()) for device in DEVICES}) == 3


def _with(dial: str, strength: float, argument: str, level: str) -> NDArray[np.uint8]:
    arguments: dict[str, Any] = {"severity": 2, "device": "Aurora 1", "operator": "A", argument: level}
    return draw_image(
        patient_tissue(np.random.default_rng(0), 120),
        np.random.default_rng(1),
        (160, 120),
        dials=Dials(**{dial: strength}),
        **arguments,
    )


def test_severity_reddens_the_lesion_and_roughens_its_surface() -> None:
    """Against the same picture without disease, so that tissue and framing cancel."""
    redness, change = np.zeros((8, 4)), np.zeros((8, 4))
    for seed in range(8):
        healthy = picture(seed).astype(float)
        for severity in range(4):
            sick = picture(seed, severity=severity).astype(float)
            redness[seed, severity] = (sick[..., 0] / (sick[..., 1:].sum(2) + 20))[30:90, 40:120].mean()
            change[seed, severity] = np.abs(sick - healthy).mean()
    assert (np.diff(redness, axis=1) > 0).all()
    assert (np.diff(change, axis=1) > 0).all()


def test_severity_makes_the_border_irregular() -> None:
    """Length of the border of what changes colour, against that of a disc of its area."""

    def irregularity(severity: int) -> float:
        v, u = np.mgrid[-0.5:0.5:240j, -0.5:0.5:240j].astype(np.float32)
        values = []
        for seed in range(12):
            inside, _ = lesion_shape(u, v, 0.2, draw_traits(np.random.default_rng(seed)), severity / 3)
            outline = max(cv2.findContours((inside > 0.5).astype(np.uint8), 0, 1)[0], key=cv2.contourArea)
            values.append(cv2.arcLength(outline, True) ** 2 / (4 * np.pi * cv2.contourArea(outline)))
        return float(np.mean(values))

    measured = [irregularity(severity) for severity in range(4)]
    assert np.all(np.diff(measured) > 0.05)


@pytest.mark.long
def test_images_of_a_patient_resemble_each_other_as_far_as_the_dial_says() -> None:
    def within(rho: float) -> float:
        return float(
            np.mean(
                [
                    difference(
                        cv2.resize(picture(seed, within_patient=rho), (16, 12), interpolation=cv2.INTER_AREA),
                        cv2.resize(picture(seed, image=1, within_patient=rho), (16, 12), interpolation=cv2.INTER_AREA),
                    )
                    for seed in range(10)
                ]
            )
        )

    assert within(1.0) < within(0.7) < within(0.0)


def test_field_of_view_and_blur() -> None:
    outside = field_of_view((160, 120)) == 0
    assert 0.2 < outside.mean() < 0.5
    assert picture()[outside].max() == 0
    assert picture(full_frame=True)[outside].mean() > 30
    sharp, blurred = (cv2.Laplacian(picture(full_frame=True, blur_px=px), cv2.CV_64F).var() for px in (0.0, 1.75))
    assert blurred < 0.7 * sharp
    assert set(plan_patients(PhantomConfig(field="full"))["full_frame"]) == {True}
    assert set(plan_patients(PhantomConfig(field="disc"))["full_frame"]) == {False}
    assert plan_patients(PhantomConfig(field="mixed"))["full_frame"].sum() == 80
