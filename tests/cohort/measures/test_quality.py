"""Quality: known degradations move the measure that is for them, grades follow the limits, a person's word
overrules."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from pellucid.cohort.config import find_recipe
from pellucid.cohort.errors import UserError
from pellucid.cohort.measures.field_of_view import outline
from pellucid.cohort.measures.phenotypes import PHENOTYPES, phenotypes
from pellucid.cohort.measures.quality import QUALITY, QUALITY_COLUMNS, measure, quality
from pellucid.cohort.measures.quality_grades import (
    ANNOTATION_COLUMNS,
    QualityThresholds,
    apply_annotations,
    grades,
    load_thresholds,
    read_annotations,
)
from pellucid.cohort.phantom.drawing import Dials, draw_image, patient_tissue

Pixels = NDArray[np.uint8]
SPECIALTIES = [
    "default",
    "endoscopy",
    "dermatology",
    "fundus",
    "ultrasound",
    "wounds",
    "pathology",
    "radiograph",
    "oct",
    "ct",
]


def mucosa(seed: int = 0, *, full_frame: bool = False) -> Pixels:
    tissue = patient_tissue(np.random.default_rng([seed, 1]), 256, full_frame=full_frame)
    rng = np.random.default_rng([seed, 2])
    return draw_image(tissue, rng, (342, 256), severity=1, device="Aurora 1", operator="A", dials=Dials())


def judged(pixels: Pixels) -> dict[str, float]:
    return quality(pixels, jpeg_quality=None)


def fogged(pixels: Pixels, transmission: float) -> Pixels:
    inside = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)[:, :, :1] > 10
    return np.where(inside, pixels * transmission + 215 * (1 - transmission), pixels).astype(np.uint8)


def disc(cx: float, cy: float, radius: float, *, band: float = 1000) -> tuple[Pixels, float]:
    """A textured disc in a black picture of 342 × 256, and the share of it that is there."""
    y, x = np.mgrid[-600:856, -600:942]
    whole = np.hypot(x - cx, y - cy) <= radius
    shown = whole & (np.abs(y - 128) <= band)
    shown = shown[600:856, 600:942]
    noise = np.random.default_rng(0).integers(60, 250, (256, 342, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 2) * shown[:, :, None].astype(np.uint8), shown.sum() / whole.sum()


def test_each_measure_has_one_column_and_measure_gives_them_all() -> None:
    found = measure(mucosa(), 88.0)
    assert set(found) == {f"phenotype_{name}" for name in PHENOTYPES} | set(QUALITY_COLUMNS)
    assert {m.column for m in QUALITY.values()} <= set(found)
    assert len({m.column for m in QUALITY.values()}) == len(QUALITY)
    assert {name: found[f"phenotype_{name}"] for name in PHENOTYPES} == phenotypes(mucosa())
    assert found["quality_compression"] == 88
    assert measure(mucosa(), None)["quality_compression"] == 100
    assert set(QualityThresholds.model_fields) == set(QUALITY)


@pytest.mark.parametrize("seed", range(3))
def test_blur_lowers_focus_step_by_step(seed: int) -> None:
    values = [judged(cv2.GaussianBlur(mucosa(seed), (0, 0), s) if s else mucosa(seed)) for s in (0, 0.7, 1, 1.5, 2.5)]
    focus = [v["quality_focus"] for v in values]
    assert (np.diff(focus) < 0).all()
    assert focus[0] - focus[3] > 0.5


def test_focus_is_of_the_structure_and_not_of_the_contrast() -> None:
    sharp = mucosa(1, full_frame=True)
    pale = (128 + (sharp.astype(float) - 128) * 0.5).astype(np.uint8)
    blurred = cv2.GaussianBlur(sharp, (0, 0), 1.5)
    moved = abs(judged(pale)["quality_focus"] - judged(sharp)["quality_focus"])
    assert moved < 0.2 * (judged(sharp)["quality_focus"] - judged(blurred)["quality_focus"])
    assert phenotypes(pale)["sharpness"] < phenotypes(sharp)["sharpness"] - 0.4, "the phenotype does go with contrast"


def test_exposure_is_the_share_that_is_black_or_burnt_out() -> None:
    picture = np.full((256, 340, 3), (180, 110, 90), np.uint8)
    assert judged(picture)["quality_exposure"] == 0
    burnt = picture.copy()
    burnt[:, :68] = (255, 160, 120)  # red at its limit, though L* is but 75
    assert judged(burnt)["quality_exposure"] == pytest.approx(0.2, abs=1e-5)
    burnt[:, -34:] = (22, 22, 22)  # nearly black, but at L* 7 no border
    assert judged(burnt)["quality_exposure"] == pytest.approx(0.3, abs=0.01)
    hole = picture.copy()
    cv2.circle(hole, (170, 128), 60, (0, 0, 0), -1)  # black within the field is not border
    assert judged(hole)["quality_exposure"] == pytest.approx(np.pi * 60**2 / (256 * 340), rel=0.06)


@pytest.mark.parametrize("seed", range(3))
def test_exposure_rises_with_light_and_with_its_lack(seed: int) -> None:
    def at(stops: float) -> float:
        light = (mucosa(seed) / 255.0) ** 2.2 * 2.0**stops
        return judged(np.clip(255 * light ** (1 / 2.2), 0, 255).astype(np.uint8))["quality_exposure"]

    assert at(0) < at(1) < at(2)
    assert at(0) < at(-4) < at(-6)


@pytest.mark.parametrize("seed", range(3))
def test_fog_raises_the_veil_step_by_step(seed: int) -> None:
    veils = [judged(fogged(mucosa(seed), t))["quality_veil"] for t in (1, 0.8, 0.6, 0.4, 0.2)]
    assert (np.diff(veils) > 0.03).all()


def test_the_veil_is_one_minus_the_transmission_where_the_prior_holds() -> None:
    """Half of the pixels black in some channel, one patch as bright as the fog: eq. 11 of He et al. gives 1 − t."""
    clear = np.kron(np.indices((64, 86)).sum(0) % 2, np.ones((4, 4)))[:, :, None] * np.array([0, 60, 0])
    clear = clear + np.array([200, 0, 0])
    for transmission in (0.8, 0.5):
        veiled = clear * transmission + 230 * (1 - transmission)
        veiled[:24, :40] = 230
        expected = 1 - transmission
        assert judged(veiled.astype(np.uint8))["quality_veil"] == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize(
    ("cx", "cy", "radius", "band"),
    [
        (170, 128, 120, 1000),
        (170, 128, 60, 1000),
        (170, 128, 150, 1000),  # cut above and below by the frame
        (40, 128, 120, 1000),
        (0, 128, 120, 1000),  # half of it
        (0, 0, 150, 1000),  # a quarter of it
        (170, 128, 125, 100),  # cut by straight black bands
        (170, 128, 125, 70),
    ],
)
def test_completeness_is_the_share_of_the_disc_that_is_shown(cx: float, cy: float, radius: float, band: float) -> None:
    picture, share = disc(cx, cy, radius, band=band)
    assert judged(picture)["quality_completeness"] == pytest.approx(share, abs=0.025)


def test_completeness_falls_where_something_black_covers_the_rim() -> None:
    picture, _ = disc(170, 128, 120)
    picture[:, :110] = 0
    y, x = np.mgrid[:256, :342]
    share = ((np.hypot(x - 170, y - 128) <= 120) & (x >= 110)).sum() / (np.pi * 120**2)
    assert judged(picture)["quality_completeness"] == pytest.approx(share, abs=0.025)


def test_lettering_beside_the_disc_is_not_part_of_it() -> None:
    picture, share = disc(220, 128, 110)
    cv2.putText(picture, "12:30 ID 7", (2, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1)
    assert judged(picture)["quality_completeness"] == pytest.approx(share, abs=0.025)


@pytest.mark.parametrize("shape", ["full", "letterbox", "rounded", "fan", "turned", "black", "speck"])
def test_what_is_not_round_counts_as_complete(shape: str) -> None:
    mask = np.zeros((256, 342), np.uint8)
    if shape == "full":
        mask[:] = 1
    elif shape == "letterbox":
        mask[30:220, 50:300] = 1
    elif shape == "rounded":
        mask[50:206, 60:280] = mask[30:226, 80:260] = 1
        for x, y in ((80, 50), (260, 50), (80, 206), (260, 206)):
            cv2.circle(mask, (x, y), 20, 1, -1)
    elif shape == "fan":
        cv2.ellipse(mask, (171, -40), (270, 270), 0, 60, 120, 1, -1)
    elif shape == "turned":
        cv2.fillConvexPoly(mask, np.array([[171, 10], [300, 100], [200, 240], [70, 150]]), 1)
    elif shape == "speck":
        mask[100:103, 100:103] = 1
    picture = np.repeat((mask * 150)[:, :, None], 3, axis=2)
    assert judged(picture)["quality_completeness"] == 1


def test_the_outline_is_filled() -> None:
    picture, _ = disc(170, 128, 110)
    mask = np.where(picture[:, :, 0] > 10, 255, 0).astype(np.uint8)
    cv2.circle(mask, (170, 128), 40, 0, -1)
    filled = outline(mask).filled
    assert filled[128, 170] == 255
    assert cv2.countNonZero(filled) == pytest.approx(np.pi * 110**2, rel=0.02)


def test_a_black_border_changes_no_judgement() -> None:
    picture = mucosa(2, full_frame=True)[:240, :320]
    framed = cv2.copyMakeBorder(picture, 8, 8, 100, 100, cv2.BORDER_CONSTANT, value=(0, 0, 0))
    bare, there = judged(picture), judged(framed)
    for name, value in bare.items():
        assert there[name] == pytest.approx(value, abs=0.03), name


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (3, 5), (40, 40)])
@pytest.mark.parametrize("level", [0, 12, 128, 255])
def test_every_picture_gives_numbers(size: tuple[int, int], level: int) -> None:
    found = judged(np.full((*size, 3), level, np.uint8))
    assert np.isfinite(list(found.values())).all()
    assert all(0 <= found[f"quality_{name}"] <= 1 for name in ("exposure", "veil", "completeness"))


# ------------------------------------------------------------------------------------------------ thresholds


@pytest.mark.parametrize("name", SPECIALTIES)
def test_every_specialty_has_limits_in_order(name: str) -> None:
    thresholds = load_thresholds(name)
    assert thresholds.sharpness is not None
    assert thresholds.compression is not None
    assert "#" in find_recipe("specialty", name).read_text(), "each value's reason stands beside it"


def test_a_specialty_changes_the_default_and_overrides_change_both() -> None:
    default, ultrasound = load_thresholds(None), load_thresholds("ultrasound")
    assert default == load_thresholds("default")
    assert ultrasound.reflection is None
    assert ultrasound.compression == default.compression
    own = load_thresholds("ultrasound", {"sharpness": {"poor": -3}, "compression": None})
    assert own.compression is None
    assert own.sharpness is not None
    assert ultrasound.sharpness is not None
    assert (own.sharpness.borderline, own.sharpness.poor) == (ultrasound.sharpness.borderline, -3)


@pytest.mark.parametrize(
    ("specialty", "overrides", "message"),
    [
        ("endoscopie", {}, r"there is no specialty recipe `endoscopie`; did you mean `endoscopy`\?"),
        (None, {"sharpnes": {"poor": 1}}, r"unknown key `sharpnes`; did you mean `sharpness`\?"),
        (None, {"sharpness": {"poor": 0}}, r"sharpness: poor is 0 and borderline -2.1, but poor must lie below"),
        (None, {"exposure": {"poor": 0.01}}, r"exposure: poor is 0.01 and borderline 0.2, but poor must lie above"),
        (None, {"exposure": {"poor": "much"}}, r"quality thresholds for `default`: `exposure.poor` is 'much'"),
    ],
)
def test_mistakes_in_thresholds_are_told(specialty: str | None, overrides: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_thresholds(specialty, overrides)


# ------------------------------------------------------------------------------------------------ grades


def frame(**columns: list[float]) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    sound = {"quality_focus": 0.0, "quality_compression": 100.0, "quality_completeness": 1.0}
    values = {m.column: [sound.get(m.column, 0.0)] * n for m in QUALITY.values()} | columns
    return pd.DataFrame({"image_id": [f"{i}.jpg" for i in range(n)], **values}, index=range(10, 10 + n))


def limits() -> QualityThresholds:
    return QualityThresholds.model_validate(
        {"sharpness": {"borderline": -1, "poor": -2}, "exposure": {"borderline": 0.2, "poor": 0.4}}
    )


def test_grades_follow_the_limits_on_both_sides() -> None:
    graded = grades(
        frame(
            quality_focus=[0, -0.99, -1, -2, -5, np.nan, 0],
            quality_exposure=[0, 0.2, 0.1, 0.1, 0.4, np.nan, 0.39],
        ),
        limits(),
    )
    assert graded["image_grade_sharpness"].tolist() == ["good", "good", "borderline", "poor", "poor", "", "good"]
    assert graded["image_grade_exposure"].tolist() == ["good", "borderline", "good", "good", "poor", "", "borderline"]
    assert graded["image_grade"].tolist() == ["good", "borderline", "borderline", "poor", "poor", "", "borderline"]
    assert set(graded["image_grade_compression"]) == {""}, "no limits, no grade"
    assert graded.index.tolist() == list(range(10, 17))
    assert list(graded.columns) == ["image_id", *(f"image_grade_{name}" for name in QUALITY), "image_grade"]


def test_an_older_manifest_is_told_to_scan_again() -> None:
    with pytest.raises(
        UserError, match="no column `quality_veil`: it is older than the grading of quality; scan again"
    ):
        grades(frame(quality_focus=[0.0]).drop(columns="quality_veil"), limits())


def test_spoilt_phantoms_are_graded_worse_and_sound_ones_good() -> None:
    ways = {
        "sharpness": lambda p: cv2.GaussianBlur(p, (0, 0), 2),
        "obstruction": lambda p: fogged(p, 0.35),
        "completeness": lambda p: np.ascontiguousarray(p[:, 154:]),
    }
    sound = [mucosa(seed) for seed in range(5)]
    thresholds = load_thresholds("endoscopy")

    def graded(pictures: list[Pixels]) -> pd.DataFrame:
        rows = pd.DataFrame([measure(p, 92.0) for p in pictures])
        return grades(rows.assign(image_id=[str(i) for i in range(len(rows))]), thresholds)

    assert (graded(sound)["image_grade"] == "good").all()
    for name, spoil in ways.items():
        found = graded([spoil(p) for p in sound])
        assert (found[f"image_grade_{name}"] == "poor").all(), name
        assert (found["image_grade"] == "poor").all(), name


# ------------------------------------------------------------------------------------------------ a person's word


def said(*rows: tuple[str, str, str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=ANNOTATION_COLUMNS)


def test_a_person_overrules_the_number_and_the_latest_word_counts() -> None:
    graded = grades(frame(quality_focus=[0, -5, -5, 0], quality_exposure=[0, 0, 0.3, 0]), limits())
    result = apply_annotations(
        graded,
        said(
            ("1.jpg", "sharpness", "good", "Ada", "2026-03-02T10:00:00+02:00"),
            ("1.jpg", "sharpness", "borderline", "Ben", "2026-03-02T09:00:00+00:00"),  # later, in spite of its clock
            ("2.jpg", "sharpness", "good", "Ada", "2026-03-01"),
            ("3.jpg", "overall", "poor", "Ada", "2026-03-01"),
            ("3.jpg", "exposure", "borderline", "Ben", "2026-03-02"),
        ),
    )
    assert result["image_grade_sharpness"].tolist() == ["good", "borderline", "good", "good"]
    assert result["image_grade_exposure"].tolist() == ["good", "good", "borderline", "borderline"]
    assert result["image_grade"].tolist() == ["good", "borderline", "borderline", "poor"]
    assert result["image_grade_by"].tolist() == ["", "Ben", "Ada", "Ada; Ben"]
    assert graded["image_grade_sharpness"].tolist() == ["good", "poor", "poor", "good"], (
        "the computed ones are left alone"
    )


def test_a_withdrawn_word_gives_the_computed_grade_back() -> None:
    graded = grades(frame(quality_focus=[-5.0]), limits())
    result = apply_annotations(
        graded,
        said(
            ("0.jpg", "sharpness", "good", "Ada", "2026-03-01T10:00"),
            ("0.jpg", "sharpness", "withdrawn", "Ada", "2026-03-01T11:00"),
        ),
    )
    assert result[["image_grade_sharpness", "image_grade", "image_grade_by"]].to_numpy().tolist() == [
        ["poor", "poor", ""]
    ]


def test_no_annotations_leave_the_grades_as_they_are(tmp_path: Path) -> None:
    graded = grades(frame(quality_focus=[-5.0]), limits())
    result = apply_annotations(graded, read_annotations(tmp_path / "quality.csv"))
    pd.testing.assert_frame_equal(result.drop(columns="image_grade_by"), graded)
    assert result["image_grade_by"].tolist() == [""]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("9.jpg", "sharpness", "good", "Ada", "2026-03-01"), "row 3: the study has no image `9.jpg`"),
        (("0.jpg", "focus", "good", "Ada", "2026-03-01"), "row 3: there is no measure `focus`"),
        (("0.jpg", "exposur", "good", "Ada", "2026-03-01"), r"`exposur`; did you mean `exposure`\?"),
        (("0.jpg", "sharpness", "bad", "Ada", "2026-03-01"), "row 3: `bad` is no grade"),
        (("0.jpg", "sharpness", "good", " ", "2026-03-01"), "row 3: the author is missing"),
        (("0.jpg", "sharpness", "good", "Ada", "yesterday"), "row 3: `yesterday` is not a time"),
    ],
)
def test_a_mistaken_annotation_is_told_with_its_row(row: tuple[str, str, str, str, str], message: str) -> None:
    graded = grades(frame(quality_focus=[0.0]), limits())
    good = ("0.jpg", "sharpness", "poor", "Ada", "2026-03-01")
    with pytest.raises(UserError, match=message):
        apply_annotations(graded, said(good, row))


def test_annotations_are_read_as_text_and_their_header_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "quality.csv"
    path.write_text("image_id,measure,grade,author,time\n007,sharpness,poor,NA,2026-03-01\n", encoding="utf-8")
    assert read_annotations(path).to_numpy().tolist() == [["007", "sharpness", "poor", "NA", "2026-03-01"]]
    path.write_text("image,measure,grade,author,time\n", encoding="utf-8")
    with pytest.raises(UserError, match="its first line must be image_id,measure,grade,author,time"):
        read_annotations(path)
    path.write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be read as a table"):
        read_annotations(path)
