"""Kept texts are compared with every identifier of the patient, in whatever spelling."""

from __future__ import annotations

import pytest

from pellucid.cohort.deidentify.technical_texts import is_version, may_stay
from pellucid.cohort.identifiers.patient_identifiers import Identifiers, holds_date, only_latin

PATIENT = Identifiers.of(["Müller^Li", "Иванов^Пётр", "王^小东", "MRN0012345", "Ng^An"], ["19610203"])


@pytest.mark.parametrize(
    "text",
    ["Müller", "Mueller 3", "MULLER", "v3Müller", "MuellerLi2", "Li 3.1", "LI", "Ivanov", "ИВАНОВ", "Pyotr Ivanov 2",
     "小东", "MRN 0012345", "v12345", "ng", "NgAn", "ANNG", "19610203", "03.02.1961", "3.2.61", "610203", "1961/2/3",
     "5 Feb 1961", "build 20150301"],
)  # fmt: skip
def test_a_text_that_names_the_patient_goes(text: str) -> None:
    assert PATIENT.in_text(text) or not only_latin(text)
    assert not is_version(text, PATIENT)
    assert not may_stay(text, PATIENT)


@pytest.mark.parametrize(
    "text", ["syngo MR E11", "VB17A", "B31f", "12.0.5", "15\\LX\\MR Software release:12.0_M5A_0846.d", "LIGHT speed16"]
)
def test_versions_stay(text: str) -> None:
    assert is_version(text, PATIENT) == ("LIGHT" not in text)


@pytest.mark.parametrize("text", ["SIEMENS", "Philips Medical Systems", "TOSHIBA_MEC", "ACME", "Echo 5", "LOGIQ E9"])
def test_makers_and_models_stay_even_if_somebody_is_called_so(text: str) -> None:
    assert may_stay(text, PATIENT)
    assert may_stay("Philips Medical Systems", Identifiers.of(["Philips^Anna"]))
    assert not may_stay("Anna Philips 3", Identifiers.of(["Philips^Anna"]))


def test_a_version_of_unknown_words_goes_even_without_an_identifier() -> None:
    nobody = Identifiers.of([])
    assert not is_version("for Mrs Kovacs", nobody)
    assert not is_version("Кузнецова", nobody)


@pytest.mark.parametrize("text", ["2.1.12", "1.2.840", "12345678", "VE11C", "2011A"])
def test_versions_are_no_dates(text: str) -> None:
    assert not holds_date(text)
