"""The source audit in worlds whose answer is known, and against the closed forms and the slower tests it stands for."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pellucid.cohort.source_audit import source_audit
from pellucid.cohort.source_audit.calendar_drift import calendar_of, drift
from pellucid.cohort.source_audit.columns import Column, SourceColumns
from pellucid.cohort.source_audit.duplicate_counts import duplicates
from pellucid.cohort.source_audit.missingness import missingness_sentence
from pellucid.cohort.source_audit.permutation_tests import compare
from pellucid.cohort.source_audit.quality_bias import dependence_sentence, quality, within_patient_similarity
from pellucid.cohort.source_audit.sample_size import (
    hanley_mcneil_half_width,
    images_per_patient,
    images_sentence,
    sample_size,
)
from pellucid.cohort.statistics.association import assign_q_values, chi_squared
from pellucid.cohort.statistics.patient_resampling import Patients
from pellucid.cohort.statistics.random_effects import standardised
from pellucid.cohort.statistics.weighted_ranks import ridits
from pellucid.cohort.study import Study, StudyConfig, Variable

_spec = importlib.util.spec_from_file_location(
    "source_truth", Path(__file__).parents[3] / "benchmarks" / "source_truth.py"
)
assert _spec is not None
assert _spec.loader is not None
truth: Any = importlib.util.module_from_spec(_spec)
sys.modules["source_truth"] = truth
_spec.loader.exec_module(truth)
WORLDS = {world.name: world for world in truth.WORLDS}


def cohort_of(name: str, seed: int = 0, **changes: Any) -> SourceColumns:
    study, manifest = replace(WORLDS[name], **changes).draw(seed)
    return SourceColumns.from_table(manifest, study.variables, seed)


@pytest.fixture(scope="module")
def everything() -> tuple[Study, pd.DataFrame, dict[str, Any]]:
    study, manifest = replace(
        WORLDS["quality depends on the outcome, strongly"], gap=0.4, drifting=0.6, sizes=0.8
    ).draw(1)
    manifest = truth.with_every_column(manifest)
    return study, manifest, source_audit(study, manifest, ["a problem"])


# --- the tests themselves


@pytest.mark.parametrize(
    "pair",
    [("recurrence", "device"), ("age", "device"), ("recurrence", "operator"), ("age", "year"), ("device", "age")],
)
def test_patients_in_one_row_each_give_what_images_give(pair: tuple[str, str]) -> None:
    """Against a plain permutation of the variable that is the same in all images of a patient, image by image."""
    cohort = cohort_of("age is missing on device B", 3)
    left, right = (next(c for c in cohort.variables if c.name == name) for name in pair)
    known = left.known & right.known
    some = cohort.patients.subset(known)
    of_patient = left if some.constant(left.values[known]).all() else right
    other = right if of_patient is left else left
    first = np.unique(some.codes, return_index=True)[1]
    rng, values = np.random.default_rng(1), of_patient.values[known][first]

    def strength(one_each: Any) -> float:
        return _strength((one_each[some.codes], len(of_patient.levels)), (other.values[known], len(other.levels)), some)

    drawn = np.array([strength(rng.permutation(values)) for _ in range(999)])
    p = (1 + (drawn >= strength(values) - 1e-9).sum()) / 1000
    fast = compare(left, right, cohort.patients)["p_value"]
    assert abs(fast - p) < 5 * max(np.sqrt(p * (1 - p) / 1000), 0.002)


def _strength(one: tuple[Any, int], other: tuple[Any, int], patients: Patients) -> float:
    """χ² of the patient table; else the squared correlation, or the share of variance between levels, of weighted
    ranks."""
    weights = patients.weights
    sides = [
        np.eye(k)[values] if k else ridits(values[None], weights, np.zeros(len(values), np.int64))[0][:, None]
        for values, k in (one, other)
    ]
    table = (sides[0] * weights[:, None]).T @ sides[1]
    if one[1] and other[1]:
        return float(chi_squared(table))
    masses = [(weights[:, None] * side**2).sum(axis=0) for side in sides]
    return float((table**2 / np.outer(*masses)).sum())


def test_a_small_p_is_computed_anew_with_more_permutations() -> None:
    found = compare(*_columns(np.repeat([0, 1], 60), np.repeat([0, 1], 60)), Patients(np.arange(120), 120))
    assert found["p_value"] == 1 / 5000  # so that an effect stands in a family of 250 tests


@pytest.mark.long
def test_a_p_value_computed_in_two_steps_keeps_its_level() -> None:
    rng = np.random.default_rng(0)
    patients = Patients(np.arange(90), 90)
    ps = np.array(
        [compare(*_columns(rng.integers(0, 2, 90), rng.integers(0, 3, 90)), patients)["p_value"] for _ in range(250)]
    )
    for level in (0.01, 0.05, 0.2):
        assert (ps <= level).mean() <= level + 3 * np.sqrt(level * (1 - level) / len(ps))


def test_too_few_patients_are_told_not_tested() -> None:
    found = compare(*_columns(np.repeat([0, 1], 4), np.repeat([0, 1], 4)), Patients(np.arange(8), 8))
    assert found["p_value"] is None
    assert found["note"] == "too few patients (8)"
    assign_q_values([found])
    assert found["q_value"] is None


@pytest.mark.long
def test_unlike_numbers_of_images_are_no_effect() -> None:
    # Exchanging patients' means as they are rejected 31 % of such worlds; 16 or more of 150 at 6 % would be p = 0.02.
    assert max(truth.rates_of_few(truth.FEW[0], range(150)).values()) <= 15 / 150


@pytest.mark.long
def test_an_effect_is_found_where_those_who_have_it_have_many_images() -> None:
    # Exchanging means as they are found none of these: 12 patients of 12 images each among 48 of one.
    assert truth.rates_of_few(truth.FEW[-1], range(30))["number"] >= 0.8


def test_with_equally_many_images_plain_permutation_is_kept() -> None:
    rng = np.random.default_rng(0)
    patients = Patients(np.repeat(np.arange(40), 3), 40)
    columns = rng.standard_normal((120, 2))
    deviations, errors = standardised(columns, patients)
    assert (errors == 1).all()
    assert deviations == pytest.approx(columns.reshape(40, 3, 2).mean(axis=1) - columns.mean(axis=0))


def test_the_scatter_of_means_is_that_planted() -> None:
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(3000), np.tile([1, 2, 8], 1000))
    values = 0.5 * rng.standard_normal(3000)[codes] + rng.standard_normal(len(codes))
    deviations, errors = standardised(values[:, None], Patients(codes, 3000))
    assert errors[:3, 0] == pytest.approx(np.sqrt(0.25 + 1 / np.array([1, 2, 8])), rel=0.05)
    assert deviations.reshape(1000, 3).std(axis=0) == pytest.approx(np.ones(3), rel=0.06)


def test_a_variable_of_almost_as_many_levels_as_patients_is_not_tested() -> None:
    patients = Patients(np.arange(60), 60)
    found = compare(*_columns(np.arange(60) // 2, np.repeat([0, 1], 30)), patients)
    assert found["p_value"] is None
    assert found["note"] == "30 levels for 60 patients: more an id than a factor"
    rare = np.r_[np.repeat(0, 50), np.arange(1, 11)]  # ten rare devices, and one that all other patients share
    assert compare(*_columns(rare, np.repeat([0, 1], 30)), patients)["note"] == "fewer than two levels with 10 patients"
    two = np.r_[np.repeat([0, 1], 25), np.arange(2, 12)]  # … and two
    assert compare(*_columns(two, np.repeat([0, 1], 30)), patients)["n_patients"] == 50


def test_levels_are_named_only_where_two_of_ten_patients_differ_as_printed() -> None:
    def levels(*of: tuple[str, int, float]) -> list[dict[str, Any]]:
        return [
            dict(zip(("level", "patients", "value", "mean", "share"), (n, k, v, v, v), strict=True)) for n, k, v in of
        ]

    numbers = {"measure": "eta_squared", "value": 0.2, "q_value": 0.01, "n_patients": 40, "role": "outcome"}
    for alike in (
        levels(("no", 20, 1.0), ("yes", 20, 1.0)),  # a tie
        levels(("no", 20, 1.0), ("yes", 20, 1.0001)),  # printed alike
        levels(("no", 31, 0.0), ("yes", 9, 1.0)),  # one has fewer than 10 patients
        levels(("no", 9, 0.0), ("yes", 8, 1.0)),  # both have
    ):
        test = numbers | {
            "quality": "completeness",
            "variable": "r",
            "variables": ["age"],
            "against": "r",
            "levels": alike,
        }
        assert dependence_sentence([test], first=True).startswith(
            "A measure of quality is not random: it depends on r (completeness: η² 0.20, q = 0.010, 40 patients)."
        )
        assert images_sentence(test).startswith("The number of images depends on r (η² 0.20, q = 0.010, 40 patients).")
        assert missingness_sentence(test) == "Whether age is missing goes with r (η² 0.20, q = 0.010, 40 patients)."
    test["levels"] = levels(("no", 20, 0.2), ("yes", 20, 0.7), ("never", 3, 0.0))
    assert "completeness 0.7 at r = yes, 0.2 at no;" in dependence_sentence([test], first=True)
    assert ": 0.7 a patient at r = yes, 0.2 at no (" in images_sentence(test)
    assert "70% of patients at r = yes, 20% at no (" in missingness_sentence(test)


def _columns(left: Any, right: Any) -> tuple[Column, Column]:
    kind = Variable("x", "clinical", "categorical")
    return Column.from_values(pd.Series(left).astype(str), kind), Column.from_values(pd.Series(right).astype(str), kind)


# --- quality: random or not


def called(name: str, repetitions: int, **changes: Any) -> dict[str, float]:
    rejected: dict[str, list[bool]] = {}
    for seed in range(repetitions):
        study, manifest = replace(WORLDS[name], **changes).draw(seed)
        for variable, verdict in quality(SourceColumns.from_table(manifest, study.variables, seed))["verdict"].items():
            rejected.setdefault(variable, []).append(verdict == "depends")
    return {variable: float(np.mean(flags)) for variable, flags in rejected.items()} | {
        "anything": float(np.mean(np.array(list(rejected.values())).any(axis=0)))
    }


@pytest.mark.long
def test_random_quality_is_not_called_dependent() -> None:
    # The rate is 5 % or less (benchmarks/source_truth.py measures it); 5 of 30 or more would be p < 0.02 against that.
    assert called("random quality", 30, n_patients=80, images=(1, 4))["anything"] <= 4 / 30


@pytest.mark.long
def test_quality_that_depends_on_the_outcome_is_called_so() -> None:
    shares = called("quality depends on the outcome, strongly", 6)
    assert shares["recurrence"] == 1
    assert shares["diagnosis"] <= 1 / 6


@pytest.mark.long
def test_an_operator_who_changes_from_image_to_image_is_found_within_patients() -> None:
    shares = called("quality depends on the operator of each image", 4, operator=1.0, n_patients=100, images=(3, 6))
    assert shares["operator"] == 1
    assert shares["recurrence"] <= 1 / 4


def test_the_verdict_stands_in_a_sentence_with_its_numbers() -> None:
    found = quality(cohort_of("quality depends on the outcome, strongly"))
    sentence = next(s for s in found["sentences"] if "recurrence" in s)
    test = next(t for t in found["tests"] if t["quality"] == "poor quality" and t["variable"] == "recurrence")
    share = {level["level"]: level["value"] for level in test["levels"]}
    assert sentence.startswith(
        f"Quality is not random: it depends on recurrence ({share['1']:.0%} of images are poor at recurrence = 1, "
        f"{share['0']:.0%} at 0; Cramér's V {test['value']:.2f}, q = {test['q_value']:.3f}, 200 patients)."
    )
    assert sentence.endswith("A model can learn quality in place of recurrence.")
    random = quality(cohort_of("random quality", n_patients=2000, images=(1, 1)))
    absence = next(s for s in random["sentences"] if s.startswith("No dependence of quality on recurrence was found"))
    # 2.8 standard errors of a difference between 600 and 1,400 patients of whom 20 % have a poor image: 5.5 points
    assert (
        "(2000 patients; a difference of 5 points" in absence or "(2000 patients; a difference of 6 points" in absence
    )


def test_likeness_within_patients_is_the_intraclass_correlation_planted() -> None:
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(300), rng.integers(2, 7, 300))
    alike = rng.standard_normal(300)[codes] + rng.standard_normal(len(codes))
    alone = rng.standard_normal(len(codes))
    patients = Patients(codes, 300)
    found = within_patient_similarity(Column.number("sharpness", "quality", alike), patients, 0)
    assert found["value"] == pytest.approx(0.5, abs=0.06)
    assert found["p_value"] == 1 / 1000
    other = within_patient_similarity(Column.number("sharpness", "quality", alone), patients, 0)
    assert abs(other["value"]) < 0.08
    assert other["p_value"] > 0.01


# --- counting


def test_hanley_and_mcneils_own_example() -> None:
    # Radiology 1982;143:29: an area of 0.893 in 51 diseased and 58 normal has a standard error of 0.032.
    assert hanley_mcneil_half_width(51, 58, 0.893) / 1.96 == pytest.approx(0.032, abs=0.0007)


def test_a_thousand_images_of_eight_events_cannot_be_studied() -> None:
    n = 60
    manifest = pd.DataFrame({"patient": np.repeat([f"P{i:03d}" for i in range(n)], 20), "split": "train"})
    manifest["recurrence"] = np.repeat(np.where(np.arange(n) < 8, "1", "0"), 20)
    cohort = SourceColumns.from_table(manifest, [Variable("recurrence", "outcome", "binary")], 0)
    size = sample_size(cohort)[0]
    assert (size["n_images"], size["n_patients"], size["n_events"], size["half_width"]) == (1200, 60, 8, None)
    assert size["sentence"] == "recurrence cannot be studied: 8 of 60 patients have recurrence = 1."
    manifest["recurrence"] = np.repeat(np.where(np.arange(n) < 30, "1", "0"), 20)
    size = sample_size(SourceColumns.from_table(manifest, [Variable("recurrence", "outcome", "binary")], 0))[0]
    assert size["word"] == "wide intervals"
    assert size["half_width"] == pytest.approx(hanley_mcneil_half_width(30, 30))


def test_the_event_is_what_says_yes_and_else_the_rarer_level() -> None:
    def event(values: list[str]) -> str:
        manifest = pd.DataFrame({"patient": [str(i) for i in range(len(values))], "x": values})
        cohort = SourceColumns.from_table(manifest, [Variable("x", "outcome", "binary")], 0)
        column, code = cohort.binary[0]
        return column.shown_levels[code]

    assert event(["yes"] * 8 + ["no"] * 2) == "yes"
    assert event(["benign"] * 8 + ["malignant"] * 2) == "malignant"


def test_more_images_of_the_recurrent_are_noticed() -> None:
    found = images_per_patient(cohort_of("random quality, the recurrent have more images"))
    assert len(found["sentences"]) == 1
    assert found["sentences"][0].startswith("The number of images depends on recurrence: ")
    assert sum(found["histogram"]) == 200


def test_who_is_missing_and_what_drifts(everything: tuple[Study, pd.DataFrame, dict[str, Any]]) -> None:
    source = everything[2]
    assert source["missingness"]["sentences"][0].startswith("age: missing does not fall evenly: ")
    assert "at device = B" in source["missingness"]["sentences"][0]
    assert any(s.startswith("device drifts over year: device = ") for s in source["calendar"]["sentences"])
    periods = {entry["period"]: entry for entry in source["calendar"]["periods"]}
    manifest = everything[1]
    assert periods["2019"]["patients"] == manifest[manifest["year"] == 2019]["patient"].nunique()


def test_the_calendar_comes_from_the_header_where_the_study_names_none() -> None:
    study, manifest = WORLDS["devices change over the years"].draw(0)
    manifest = truth.with_every_column(manifest)
    variables = [v for v in study.variables if v.name != "year"]
    when = calendar_of(manifest, variables)
    assert when is not None
    assert (when.name, when.role) == ("header_date", "calendar")
    assert when.values[0] == pytest.approx(manifest["year"].iloc[0] + 0.5, abs=0.5)
    assert drift(SourceColumns.from_table(manifest, variables, 0), when)["periods"][0]["period"] == "2018"
    manifest["header_date"] = manifest["header_date"].str.replace(r"^\d+", "2020", regex=True)
    periods = drift(SourceColumns.from_table(manifest, variables, 0), calendar_of(manifest, variables))["periods"]
    assert [entry["period"] for entry in periods][:2] == ["2020-01", "2020-02"]
    born = Variable("birth_year", "clinical", "ordinal")
    assert calendar_of(manifest[["patient"]].assign(birth_year=1950.0 + np.arange(len(manifest)) % 9), [born]) is None


def test_duplicates_across_patients_are_named_by_research_id(
    everything: tuple[Study, pd.DataFrame, dict[str, Any]],
) -> None:
    _, manifest, source = everything
    found = source["duplicates"]
    assert (found["n_groups"], found["n_across_patients"], found["n_across_splits"]) == (2, 1, 1)
    assert found["copies"] == {"exact": 1, "pixels": 0, "near": 1}
    assert set(found["to_look_at"][0]["patients"]) <= set(manifest["patient"])
    assert "img_" not in json.dumps(found)
    first, second = manifest["image_id"].iloc[[0, -1]]
    asked = duplicates(manifest.assign(duplicate_question=manifest["image_id"].map({first: "Q0001", second: "Q0001"})))
    assert (asked["n_questions"], len(asked["to_ask"][0])) == (1, 2)
    assert any("1 pair(s) of images of different patients are very alike" in s for s in asked["sentences"])
    older = manifest.drop(columns=["duplicate_group", "duplicate_kind"])
    assert duplicates(older)["n_across_patients"] == 1
    assert duplicates(older.drop(columns="duplicate_of"))["n_groups"] == 0


def test_a_side_without_an_event_is_told() -> None:
    study, manifest = WORLDS["random quality"].draw(0)
    manifest.loc[manifest["split"] == "test", "recurrence"] = "0"
    source = source_audit(study, manifest, [])
    assert "Split: of recurrence, test has no 1." in source["sections"]["splits"]
    assert source["sample_size"][0]["by_split"]["test"]["n_events"] == 0
    side = source["split_balance"]["sides"][0]
    worst = next(v for v in side["variables"] if v["variable"] == "recurrence")
    train = manifest[manifest["split"] == "train"].drop_duplicates("patient")["recurrence"].eq("1").mean()
    assert worst["difference"] == pytest.approx(train / np.sqrt(train * (1 - train) / 2))


def test_events_per_level_and_header_fields(everything: tuple[Study, pd.DataFrame, dict[str, Any]]) -> None:
    _, manifest, source = everything
    device = next(f for f in source["factors"] if f["name"] == "device")
    of_b = next(level for level in device["levels"] if level["level"] == "B")
    rows = manifest[manifest["device"] == "B"]
    assert of_b["patients"] == rows["patient"].nunique()
    assert of_b["events"]["recurrence"] == {
        "event": "1",
        "patients": rows[rows["recurrence"] == "1"]["patient"].nunique(),
        "known": rows["patient"].nunique(),
    }
    assert {c["name"]: c["same_as"] for c in source["candidates"]} == {
        "header_manufacturer": ["device"],
        "header_software": [],
    }
    assert "DOE" not in json.dumps(source)


def test_burned_in_text_and_findings_are_counted(everything: tuple[Study, pd.DataFrame, dict[str, Any]]) -> None:
    _, manifest, source = everything
    by = {level["level"]: level["share"] for level in source["burned_in"]["by_factor"][0]["levels"]}
    assert by["A"] == 0
    assert by["B"] == pytest.approx(manifest[manifest["device"] == "B"]["text_like"].mean())
    assert source["findings"]["gps"] == int((manifest["findings"] == "gps").sum())
    assert source["burned_in"]["detector"] == "found by its form, not read"


def test_what_names_a_person_is_told_from_what_may(everything: tuple[Study, pd.DataFrame, dict[str, Any]]) -> None:
    study, manifest, _ = everything
    usable = manifest.index[manifest["status"] == "ok"]
    marked = manifest.assign(findings="dicom_uid")
    marked.loc[usable[:3], "findings"] = "dicom_uid dicom_name"
    report = source_audit(study, marked, [])["privacy"]
    assert report["n_images_naming"] == 3
    assert report["n_images"] == len(usable)
    assert "3 image(s) of" in report["sentences"][0]
    assert "(dicom name 3): de-identify before sharing." in report["sentences"][0]
    assert report["sentences"][1].endswith(f"dicom uid {len(usable)}.")


@pytest.mark.long
def test_words_read_by_ocr_are_kept_only_where_many_patients_share_them(
    everything: tuple[Study, pd.DataFrame, dict[str, Any]],
) -> None:
    study, manifest, _ = everything
    patients = sorted(set(manifest.loc[manifest["status"] == "ok", "patient"]))
    few, many = set(patients[:9]), set(patients[:10])
    read = manifest["patient"].map(lambda p: f"{'Mama ' if p in many else ''}{'Silva' if p in few else ''}")
    report = source_audit(study, manifest.assign(text_read=read, text_like=read != ""), [])["burned_in"]
    assert [word["word"] for word in report["words"]] == ["MAMA"], "nine patients may be one family"
    assert not any("MAMA" in sentence for sentence in report["sentences"]), "it may be an operator's name"


def test_the_sentences_shown_are_few_and_all_of_them_are_kept(
    everything: tuple[Study, pd.DataFrame, dict[str, Any]],
) -> None:
    source = everything[2]
    assert len(source["sentences"]) <= 19
    every = [sentence for said in source["sections"].values() for sentence in said]
    assert all(s in every for s in source["sentences"][:-1])
    assert json.loads(json.dumps(source, allow_nan=False)) == source


def test_a_bare_manifest_of_images_without_a_table_is_audited() -> None:
    config = StudyConfig.model_validate({"images": ".", "patient": "none"})
    manifest = pd.DataFrame({"image_id": ["a", "b"], "patient": ["P1", "P2"], "split": ["train", "train"]})
    manifest["status"], manifest["reason"] = "ok", ""
    source = source_audit(Study(Path("study.yaml"), config), manifest, [])
    assert (source["n_images"], source["n_patients"]) == (2, 2)
    assert source["quality"]["note"] == "images were not graded"
    assert source["calendar"]["note"] == "no date or year is known"
