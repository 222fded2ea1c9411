"""Columns of free text are refused in a copy unless somebody asks for them by name; staff gets keyed names."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pellucid.cohort.deidentify import deidentify_study
from pellucid.cohort.deidentify.personal_columns import is_free_text
from pellucid.cohort.errors import UserError
from pellucid.cohort.study import Study, load_study

REMARKS = [f"seen on a {day}, will come again after {i} weeks" for i, day in enumerate(("Monday", "Friday", "Sunday"))]


def small(folder: Path, remarks: list[str], *, clinical: str = "remark", names: list[str] | None = None) -> Study:
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(3):
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (40, 60), dtype=np.uint8)).save(out, "PNG")
        (folder / "images" / f"{i}.png").write_bytes(out.getvalue())
    table = {"file": [f"{i}.png" for i in range(3)], "pid": [f"PAT_{i}" for i in range(3)], clinical: remarks}
    table |= {"name": names or ["Novak, Jan", "Meier, Eva", "Roth, Ida"], "operator": ["Zanlofek", "Bo", "Zanlofek"]}
    pd.DataFrame(table).to_csv(folder / "clinical.csv", index=False)
    (folder / "study.yaml").write_text(
        f"images: images\ntable: clinical.csv\nimage: file\npatient: pid\nclinical: {{{clinical}: categorical}}\n"
        "acquisition: {operator: categorical}\nexternal: {operator: [Bo]}\nscan: {workers: 1}\n"
    )
    return load_study(folder)


def copied(study: Study, tmp_path: Path, **options: object) -> pd.DataFrame:
    deidentify_study(study, tmp_path / "out", tmp_path / "l.json", text="lines", progress=False, **options)  # type: ignore[arg-type]
    return pd.read_csv(tmp_path / "out" / "clinical.csv")


def test_free_text_is_refused_by_the_name_of_column_and_flag(tmp_path: Path) -> None:
    study = small(tmp_path / "s", REMARKS)
    with pytest.raises(UserError, match=r"the column `remark` holds free text, .* give --keep-text remark "):
        copied(study, tmp_path)
    assert not (tmp_path / "out").exists()
    assert sorted(copied(study, tmp_path, keep_text=["remark"])["remark"]) == sorted(REMARKS)


@pytest.mark.parametrize("told", ["called Novak at home, she will come again", "born 14.08.1948, will come again soon"])
def test_free_text_that_names_its_patient_is_refused_even_then(tmp_path: Path, told: str) -> None:
    study = small(tmp_path / "s", [told, *REMARKS[1:]])
    with pytest.raises(UserError, match=r"`remark` names its own patient, staff or a full date in 1 cell"):
        copied(study, tmp_path, keep_text=["remark"])


def test_a_column_that_is_not_declared_cannot_be_kept(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="keep-text: `remarks` is no declared column of the table; did you mean `remark`"
    ):
        copied(small(tmp_path / "s", REMARKS), tmp_path, keep_text=["remarks"])


def test_staff_in_a_copy_has_keyed_names_and_stays_held_out(tmp_path: Path) -> None:
    table = copied(small(tmp_path / "s", ["benign", "malignant", "benign"], clinical="finding"), tmp_path)
    assert table["operator"].str.fullmatch("operator-[0-9a-f]{8}").all()
    assert table["operator"].nunique() == 2
    external = load_study(tmp_path / "out").config.external["operator"]
    assert external == [table.loc[table["operator"].map(table["operator"].value_counts()) == 1, "operator"].item()]
    for path in (tmp_path / "out").rglob("*"):
        assert not path.is_file() or b"Zanlofek" not in path.read_bytes()


@pytest.mark.parametrize(
    ("name", "cells", "free"),
    [
        ("remark", REMARKS, True),
        ("Bemerkungen", ["kommt wieder", "ruft an", "war krank", "kommt wieder"], True),
        ("diagnosis", ["ductal carcinoma in situ of the breast"] * 9 + ["fibroadenoma"] * 9 + ["cyst"] * 9, False),
        ("device", ["Aurora 1", "Aurora 2", "Borealis"], False),
        ("comment", ["a", "b", "c"], False),
        ("two levels", ["never has smoked in the whole life", "smokes more than ten each day"], False),
    ],
)
def test_free_text_is_long_and_mostly_different(name: str, cells: list[str], free: bool) -> None:
    assert is_free_text(name, pd.Series(cells)) is free
