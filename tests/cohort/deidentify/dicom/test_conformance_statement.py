"""docs/dicom-conformance.md says what the program does: neither can change alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydicom.datadict import DicomDictionary, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from pellucid.cohort.deidentify.dicom.conformance_statement import statement
from pellucid.cohort.deidentify.dicom.dicom_headers import DicomOptions, kept_header, state_cleaning
from pellucid.cohort.deidentify.linkage_file import Linkage
from pellucid.cohort.identifiers.findings import tags_in
from pellucid.cohort.identifiers.patient_identifiers import Identifiers

DOCUMENT = Path(__file__).resolve().parents[4] / "docs" / "dicom-conformance.md"
VALUES = {"LO": "Roe", "SH": "Roe", "LT": "Roe", "ST": "Roe", "UT": "Roe", "UC": "Roe", "PN": "Roe^Jan", "CS": "ROE",
          "DA": "19480814", "TM": "101112", "DT": "19480814101112", "DS": "3", "IS": "3", "AS": "091Y", "AE": "ROE",
          "UI": "1.2.3.4", "US": 3, "UL": 3, "SS": 3, "SL": 3, "FD": 3.0, "FL": 3.0}  # fmt: skip


def rows() -> dict[str, str]:
    """Action of each keyword in the document."""
    found = re.findall(
        r"^\| \([0-9A-F,]{9}\) \| (\w+) \(.*?\) \| [\w ]+ \| (.*?) \|", DOCUMENT.read_text("utf-8"), re.M
    )
    return dict(found)


def test_the_document_is_what_the_lists_say() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == statement(), (
        "rewrite it: python -m pellucid.cohort.deidentify.dicom.conformance_statement"
    )


@pytest.fixture
def cleaned(tmp_path: Path) -> Dataset:
    """A header with a value in each attribute of the dictionary, cleaned."""
    source = Dataset()
    for tag, (vr, *_) in DicomDictionary.items():
        if vr in VALUES and tag >> 16 not in {0, 2, 4} and tag >> 16 < 0x5000:
            source.add(DataElement(tag, vr, VALUES[vr]))
    key = Linkage(tmp_path / "none", "s", "i", bytes(range(32)), {"17": "PABC"})
    out = kept_header(source, key, "17", DicomOptions(), Identifiers.of(["Roe^Jan", "17"], ["19480814"]))
    state_cleaning(out, key, "17", DicomOptions())
    return out


def test_every_attribute_that_comes_out_is_in_the_document(cleaned: Dataset) -> None:
    stated = {"PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
              "LongitudinalTemporalInformationModified", "SpecificCharacterSet"}  # fmt: skip
    kept = {keyword_for_tag(tag) for tag in tags_in(cleaned)}
    assert len(kept) > 80
    assert kept - stated <= rows().keys()
    assert all(keyword in DOCUMENT.read_text(encoding="utf-8") for keyword in stated)


def test_attributes_come_out_as_their_action_says(cleaned: Dataset) -> None:
    actions = rows()
    assert {"K", "C", "U", "Z", "X", "D", "C (X)", "K (X)", "D (K)"} == set(actions.values())
    for element in cleaned:
        action = actions.get(element.keyword)
        if action == "Z":
            assert str(element.value) == "", element.keyword
        elif action == "X":
            pytest.fail(element.keyword)
        elif action == "U":
            assert str(element.value).startswith("2.25."), element.keyword
        elif action in {"D", "D (K)"}:
            assert re.fullmatch(r"[PD][A-Z0-9]+", str(element.value)), element.keyword
        assert "ROE" not in str(element.value).upper()
    assert cleaned.PatientAge == "090Y"
    assert cleaned.StudyDate != "19480814"
