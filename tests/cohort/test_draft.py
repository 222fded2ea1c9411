"""`init` guesses from names and values, says why, and what it writes is accepted as it is."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from cohort.draft import draft_study
from cohort.errors import UserError
from cohort.scan import scan
from cohort.study import FromPath, load_study


def test_draft_of_a_phantom_finds_roles_and_scans(own_phantom: Path) -> None:
    (own_phantom / "study.yaml").unlink()
    study = load_study(draft_study(own_phantom))
    roles = {v.name: v.role for v in study.variables}
    assert study.config.patient == "patient_id"
    assert study.config.image == "file_name"
    assert {n for n, role in roles.items() if role == "acquisition"} == {"device", "operator", "site", "year"}
    assert roles["diagnosis"] == "clinical"
    assert roles["recurrence"] == "outcome"
    assert scan(study, progress=False).read_json("source.json")["n_patients"] == 30


def test_never_overwrites(own_phantom: Path) -> None:
    with pytest.raises(UserError, match=r"study\.yaml: is already there; edit it, or move it away"):
        draft_study(own_phantom)


def test_without_a_table_the_patient_is_read_off_the_path(own_phantom: Path) -> None:
    (own_phantom / "study.yaml").unlink()
    (own_phantom / "clinical.csv").unlink()
    images = own_phantom / "images"
    for i, path in enumerate(sorted(p for p in images.rglob("*") if p.is_file())):
        target = images / f"pat{i // 4}" / path.name
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
    study = load_study(draft_study(own_phantom))
    assert isinstance(study.config.patient, FromPath)


def test_two_tables_need_a_choice(own_phantom: Path) -> None:
    (own_phantom / "study.yaml").unlink()
    (own_phantom / "second.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"holds 2 tables \(clinical\.csv, second\.csv\): say which, with --table"):
        draft_study(own_phantom)
    assert load_study(draft_study(own_phantom, own_phantom / "clinical.csv")).table == own_phantom / "clinical.csv"


def test_columns_that_say_nothing_are_left_out_with_the_reason(own_phantom: Path) -> None:
    (own_phantom / "study.yaml").unlink()
    table = pd.read_csv(own_phantom / "clinical.csv")
    table["hospital_code"] = range(len(table))
    table["exam_day"] = 20240101
    table["note"] = "constant"
    table.to_csv(own_phantom / "clinical.csv", index=False)
    text = draft_study(own_phantom).read_text(encoding="utf-8")
    assert "# left out: note: it has the same value everywhere" in text
    assert "# left out: hospital_code:" in text
    assert "# left out: exam_day:" in text
