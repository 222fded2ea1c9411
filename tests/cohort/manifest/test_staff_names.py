"""Staff, institutions and machines by keyed names: which columns, and what the names tell."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from pellucid.cohort.errors import UserError
from pellucid.cohort.manifest.column_words import names_staff
from pellucid.cohort.manifest.staff_names import (
    keyed_column,
    keyed_names,
    named_columns,
    secret_digest,
    study_secret,
    with_keyed_names,
)
from pellucid.cohort.study import load_study


@pytest.mark.parametrize(
    ("name", "word"),
    [
        *(
            ("operator", "operator"),
            ("Operator_ID", "operator"),
            ("OperatorsName", "operator"),
            ("device_operator", "operator"),
        ),
        *(
            ("Untersucher", "untersucher"),
            ("Untersucher:in", "untersucher"),
            ("Hausärztin", "arztin"),
            ("Ueberweiser", "ueberweiser"),
            ("durchgeführt von", "staff"),
            ("realizado por", "staff"),
            ("created_by", "staff"),
            ("Врач", "врач"),
            ("医師", "医師"),
            ("Überweiser", "uberweiser"),
            ("Oberarzt", "arzt"),
            ("Behandelnder Arzt", "arzt"),
        ),
        *(("Arztkürzel", "arzt"), ("Erstoperateur", "operateur"), ("médecin", "medecin"), ("lecteur", "lecteur")),
        *(
            ("médico_solicitante", "medico"),
            ("técnico", "tecnico"),
            ("esaminatore", "esaminatore"),
            ("leitor", "leitor"),
        ),
        *(("referring_physician", "physician"), ("ReferringPhysicianName", "physician"), ("reported by", "staff")),
        *(("reader1", "reader"), ("Sonographer", "sonographer"), ("Dr_name", "physician")),
    ],
)
def test_columns_of_staff_are_known_in_six_languages(name: str, word: str) -> None:
    assert names_staff(name) == word


@pytest.mark.parametrize(
    "name",
    ["operator_experience", "Operator (years of experience)", "reader_diagnosis", "reader 2 grade", "DR", "caused_by",
     "physician_specialty",
     "DR_grade", "device", "site", "technique", "header", "doctor_phone", "reading_time", "diagnosis"],
)  # fmt: skip
def test_other_columns_are_not(name: str) -> None:
    assert names_staff(name) == ""


@pytest.mark.parametrize("name", ["Behandelnder Arzt", "médecin traitant", "Untersucher/in", "performing_physician"])
def test_a_word_of_duty_beside_staff_is_a_name_in_any_role(name: str) -> None:
    assert names_staff(name, strict=True)


def test_a_numbered_reader_among_clinical_variables_is_a_finding() -> None:
    assert names_staff("reader1", strict=True) == ""
    assert names_staff("reader", strict=True) == "reader"


def test_keyed_names_are_one_to_one_and_follow_the_secret() -> None:
    staff = [f"Dr. {i:03d}" for i in range(400)]
    names = keyed_names(staff, "operator", secret_digest(b"one"))
    assert len(set(names.values())) == 400
    assert names == keyed_names(reversed(staff), "operator", secret_digest(b"one"))
    assert not set(names.values()) & set(keyed_names(staff, "operator", secret_digest(b"two")).values())
    again = keyed_names(names.values(), "operator", secret_digest(b"two"))
    assert all(name == keyed for name, keyed in again.items()), "keyed once"


def test_two_names_never_share_a_keyed_name() -> None:
    same_beginning = {"a": bytes(32), "b": bytes(31) + b"\1"}
    names = keyed_names("ab", "operator", same_beginning.__getitem__)
    assert len(set(names.values())) == 2


def test_empty_cells_stay_empty() -> None:
    column = pd.Series(["Ann", None, "", "Ann"], dtype=object)
    keyed = keyed_column(column, "operator", secret_digest(b"x"))
    assert keyed[0] == keyed[3] != "Ann"
    assert keyed[1] is None
    assert keyed[2] == ""


def test_the_secret_is_known_only_with_an_original_and_stays_when_images_are_added() -> None:
    images = pd.DataFrame({"sha256": ["b1", "a7", None]})
    assert study_secret(images) == study_secret(pd.DataFrame({"sha256": ["a7", "c2", "d9"]}))
    assert study_secret(images) != study_secret(pd.DataFrame({"sha256": ["b1"]}))


def test_one_person_in_two_columns_has_one_key(tmp_path: Path) -> None:
    manifest = pd.DataFrame(
        {"sha256": ["1", "2"], "operator": ["Ann", "Bo"], "reader": ["Bo", "Ann"], "device": ["a", "b"]}
    )
    keyed = with_keyed_names(manifest, {"operator": "operator", "reader": "reader"})
    assert keyed["operator"][0].removeprefix("operator") == keyed["reader"][1].removeprefix("reader")
    assert keyed["device"].tolist() == ["a", "b"]


def test_an_event_that_is_a_person_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(
        "images: .\ntable: t.csv\nimage: f\npatient: p\nacquisition: {operator: {kind: binary, positive: Ann}}\n"
    )
    with pytest.raises(UserError, match="`operator` names staff, and its levels get keyed names: remove `positive`"):
        named_columns(load_study(tmp_path))
