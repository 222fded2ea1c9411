"""Columns of the table: ids, dates, ages and names of people."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pydicom
import pytest

from pellucid.cohort.deidentify.dicom.dicom_files import clean_dicom
from pellucid.cohort.deidentify.dicom.dicom_headers import DicomOptions
from pellucid.cohort.deidentify.linkage_file import Linkage
from pellucid.cohort.deidentify.personal_columns import capped_ages, is_age, is_personal
from pellucid.cohort.errors import UserError
from pellucid.cohort.manifest.date_columns import moved, order_of
from tests.cohort.deidentify.small_files import again, ct, nothing, png, small_study


def test_the_id_of_the_table_drops_a_text_and_image_types_are_terms(tmp_path: Path) -> None:
    key = Linkage(tmp_path / "none", "s", "i", bytes(32), {"MUSTER-77": "PABC"})
    data = ct(PatientID="other", ManufacturerModelName="MUSTER", ImageType=["ORIGINAL", "PRIMARY", "MEIER", "AXIAL"])
    result = clean_dicom(data, nothing, key, "MUSTER-77", DicomOptions(), max_megapixels=10)
    after = pydicom.dcmread(io.BytesIO(result.data))
    assert "ManufacturerModelName" not in after
    assert list(after.ImageType) == ["ORIGINAL", "PRIMARY", "OTHER", "AXIAL"]


def test_an_id_inside_a_declared_column_is_refused_without_being_told(tmp_path: Path) -> None:
    study = small_study(
        tmp_path / "s",
        'a.png,PAT_1122,"Pat. Mustermann, pat 1122",1122\nb.png,PAT_3344,fine,3344',
        {"a.png": png(), "b.png": png()},
        columns=",comment,cells",
        more="clinical: {cells: continuous, comment: categorical}\n",
    )
    with pytest.raises(
        UserError, match=r"the column `comment` holds the id of a patient of the study in 1 row"
    ) as said:
        again(study, tmp_path)
    assert "1122" not in str(said.value)


@pytest.mark.parametrize(
    ("value", "other", "ten_days_before"),
    [
        ("3/17/2019", "1/2/2019", "3/07/2019"),
        ("17/3/2019", "1/2/2019", "07/3/2019"),
        ("05.03.19", "01.02.19", "23.02.19"),
        ("2019-3-5", "2019-4-5", "2019-2-23"),
        ("2019/3/5", "2019/4/5", "2019/2/23"),
        ("25-03-2019", "05-03-2019", "15-03-2019"),
        ("5 Mar 2019", "6 April 2019", "23 Feb 2019"),
        ("05MAR2019", "06APR2019", "23FEB2019"),
        ("20190305101112.5", "20190305", "20190223"),
        ("2019-03-05T10:11:12", "2019-03-05", "2019-02-23"),
    ],
)
def test_dates_are_moved_in_the_form_they_have(value: str, other: str, ten_days_before: str) -> None:
    any_date, order = order_of([value, other])
    assert any_date
    assert moved(value, -10, order) == ten_days_before


@pytest.mark.parametrize(
    "value", ["03/04/2019", "05-03-2019", "5. März 2019", "5 de marzo de 2019", "5.3.19", "05032019"]
)
def test_a_column_of_days_that_nobody_can_read_for_certain_is_refused(tmp_path: Path, value: str) -> None:
    study = small_study(
        tmp_path / "s",
        f"a.png,PAT_1,{value}\nb.png,PAT_2,{value}",
        {"a.png": png(), "b.png": png()},
        columns=",visit",
        more="acquisition: {visit: categorical}\n",
    )
    with pytest.raises(UserError, match=r"the column `visit` .*cannot be shifted"):
        again(study, tmp_path)
    assert not list((tmp_path / "out").rglob("*"))


@pytest.mark.parametrize(
    "values", [["benign", "malignant"], ["12.5", "13.1"], ["3 mm", "5 mm"], ["2019", "2020"], ["T1a"]]
)
def test_other_values_are_no_dates(values: list[str]) -> None:
    assert not order_of(values)[0]


@pytest.mark.parametrize(
    "name", ["Age years", "AgeAtDiagnosis", "ageYears", "age.years", "Alter", "âge", "edad", "age", "patient_age"]
)
def test_high_ages_are_ninety_whatever_the_column_is_called(name: str) -> None:
    assert is_age(name)
    ages = pd.Series(["93", "89", "93 years", "95-99"], dtype=object)
    assert capped_ages(ages, name).tolist() == ["90", "89", "90", "90"]
    assert capped_ages(pd.Series(["93", "1200"], dtype=object), "age_months").tolist() == ["93", "1080"]


@pytest.mark.parametrize("name", ["stage", "dosage", "image", "alternative", "device_name", "nominal", "case_control"])
def test_other_columns_are_neither_ages_nor_names(name: str) -> None:
    assert not is_age(name)
    assert not is_personal(name)


@pytest.mark.parametrize(
    "name",
    ["pat_name", "Nachname", "Vorname", "geb_datum", "birth_year", "zip", "postcode", "PLZ", "Adresse", "Telefon",
     "initials", "hospital_number", "case_no", "Fallnummer", "NHS number", "PatientName", "last name", "dob"],
)  # fmt: skip
def test_columns_that_name_people_are_known(name: str) -> None:
    assert is_personal(name)
