"""The kind `date`: a column of days gives a year and a number of days, or a sentence that names the cell."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from pellucid.cohort.errors import UserError
from pellucid.cohort.manifest.declared_columns import date_part
from pellucid.cohort.study import load_study

HERE = "t.csv"


def days(values: list[object]) -> pd.Series:
    return pd.Series(values, name="exam")


@pytest.mark.parametrize(
    "values",
    [
        ["2020-12-31", "2021-03-04", "2021-03-14 10:15:00", None],
        ["31.12.2020", "4.3.2021", "14.03.2021", None],
        ["12/31/2020", "03/04/2021", "03/14/2021", None],
        [20201231, 20210304, 20210314, float("nan")],
        ["20201231", "20210304", "20210314101500", ""],
        ["31 Dec 2020", "March 4, 2021", "14-Mar-2021", "unknown"],
        [*pd.to_datetime(["2020-12-31", "2021-03-04", "2021-03-14"]), pd.NaT],
    ],
)
def test_days_in_any_form_give_the_same_year_and_interval(values: list[object]) -> None:
    assert date_part(days(values), "year", HERE).tolist()[:3] == [2020, 2021, 2021]
    assert date_part(days(values), "days", HERE).tolist()[:3] == [0, 63, 73]
    assert date_part(days(values), "days", HERE).isna().tolist() == [False, False, False, True]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["2021-03-04", "soon", "2021-13-01"], "declared date, but row 3 has `soon`, row 4 has `2021-13-01`: write"),
        (["14.08.48", "04.03.2021"], "row 2 has `14.08.48`: write each day with a year of four digits"),
        (["03/04/2021", "05/06/2021"], "nobody can say whether day or month comes first: write each day like 2021"),
        (["31/12/2020", "12/31/2020"], "both day first and month first"),
        ([44000, 44001], "row 2 has `44000`"),
    ],
)
def test_what_is_no_day_is_named(values: list[object], said: str) -> None:
    with pytest.raises(UserError) as caught:
        date_part(days(values), "year", HERE)
    assert said in str(caught.value)
    assert str(caught.value).startswith("t.csv: column `exam`")


def study(folder: Path, text: str) -> Path:
    (folder / "study.yaml").write_text(f"images: x\ntable: t.csv\nimage: f\npatient: p\n{text}", encoding="utf-8")
    return folder


def test_a_date_declares_its_parts(tmp_path: Path) -> None:
    loaded = load_study(study(tmp_path, "acquisition: {exam: date, visit: {kind: date, derive: [days]}}\n"))
    assert [(v.name, v.kind, v.table_column) for v in loaded.variables] == [
        ("exam_year", "ordinal", "exam"),
        ("exam_days", "continuous", "exam"),
        ("visit_days", "continuous", "visit"),
    ]
    assert loaded.derived == {"exam_year", "exam_days", "visit_days"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("acquisition: {exam: date, exam_year: ordinal}\n", "the column `exam_year` is listed under acquisition"),
        ("acquisition: {exam: {kind: date, derive: [month]}}\n", "input should be 'year' or 'days'"),
        ("acquisition: {exam: {kind: date, derive: []}}\n", "`acquisition.exam.derive`"),
        ("outcome: {exam: date}\n", "`outcome.exam` is 'date': input should be 'binary'"),
    ],
)
def test_mistakes_of_a_date(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        load_study(study(tmp_path, text))
    assert said in str(caught.value)
