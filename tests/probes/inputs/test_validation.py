"""Odd frames and ids: one patient has one id, a level called none is a level, and no frame ends in a traceback."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pellucid.cohort.errors import UserError
from pellucid.probes.inputs.validation import AuditInput
from pellucid.probes.settings import AuditSettings

N = 120
RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(N, 8))
TABLE = pd.DataFrame({"p": [f"P{i}" for i in range(N)], "dx": RNG.integers(0, 2, N), "device": RNG.integers(0, 2, N)})


def checked(
    table: pd.DataFrame,
    vectors: object = VECTORS,
    patient: object = "p",
    clinical: object = ("dx",),
    acquisition: object = ("device",),
) -> AuditInput:
    return AuditInput.from_table(vectors, table, patient, clinical, acquisition, True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "ids",
    [
        [f"P{i // 2}" + " " * (i % 2) for i in range(N)],
        [float(i // 2) if i % 2 else i // 2 for i in range(N)],
        ["Mu\u0308ller" + str(i // 2) if i % 2 else "M\u00fcller" + str(i // 2) for i in range(N)],
    ],
)
def test_one_patient_however_the_id_is_written(ids: list[object]) -> None:
    assert checked(TABLE.assign(p=pd.Series(ids, dtype=object))).patients.n_patients == N // 2


@pytest.mark.parametrize("word", ["", "unknown", "?", "n/a", "none", "-"])
def test_a_word_for_no_id_is_refused_as_an_empty_cell_is(word: str) -> None:
    with pytest.raises(UserError, match=r'Column "p": 60 of 120 rows have no patient id') as caught:
        checked(TABLE.assign(p=[word if i < 60 else f"P{i}" for i in range(N)]))
    assert not word or f'"{word}" 60 ×' in str(caught.value)


def test_a_level_called_none_is_a_level_and_a_word_for_missing_is_named() -> None:
    g = np.arange(N) % 3
    table = TABLE.assign(
        oedema=pd.Categorical(np.array(["none", "mild", "severe"])[g], ["none", "mild", "severe"], ordered=True),
        metastasis=np.where(g == 0, "None", "present"),
        region=np.array(["NA", "EU", "AS"])[g],
        eye=np.array(["NA", "OD", "OS"])[g],
    )
    found = {v.name: v for v in checked(table, clinical=["oedema", "metastasis", "region", "eye"]).variables}
    assert [found[name].n_missing for name in ("oedema", "metastasis", "region", "eye")] == [0, 0, 0, 40]
    assert set(found["metastasis"].levels) == {"None", "present"}
    assert 'Taken as no value: "NA" 40 ×' in found["eye"].notes[0]
    with pytest.raises(UserError, match=r'constant: every row is "present".*Taken as no value: "unknown" 40 ×'):
        checked(TABLE.assign(dx=np.where(g == 0, "unknown", "present")))


def test_integer_names_of_columns_work() -> None:
    found = checked(TABLE.set_axis(range(3), axis=1), patient=0, clinical=[1], acquisition=[2])
    assert [v.name for v in found.variables] == ["1", "2"]


def test_a_matrix_and_no_clinical_variable_work() -> None:
    assert checked(TABLE, vectors=np.asmatrix(VECTORS)).patients.n_patients == N
    assert [v.name for v in checked(TABLE, clinical=None).variables] == ["device"]


@pytest.mark.parametrize(
    ("table", "vectors", "said"),
    [
        (pd.concat([TABLE, TABLE[["device"]]], axis=1), VECTORS, 'several columns called "device"; rename or remove'),
        (pd.concat([TABLE, TABLE[["p"]]], axis=1), VECTORS, 'several columns called "p"'),
        (TABLE.assign(dx=[["a"]] * N), VECTORS, 'Variable "dx" holds lists, arrays or bytes'),
        (TABLE.assign(dx=None), VECTORS, 'Variable "dx" is empty: no row has a value'),
        (TABLE, np.ma.masked_greater(VECTORS, 1), "a masked array with .* masked values; fill them"),
        (TABLE, VECTORS * 1e60, "contain values above 1e\\+18: divide all by one number"),
    ],
)
def test_odd_frames_get_a_sentence(table: pd.DataFrame, vectors: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        checked(table, vectors=vectors)


def test_a_negative_seed_gets_a_sentence() -> None:
    with pytest.raises(UserError, match="seed is -1; a whole number from 0 is needed"):
        AuditSettings(seed=-1)


def test_columns_of_days() -> None:
    day = pd.date_range("2020-01-01", periods=N, freq="9D")
    text = TABLE.assign(exam=day.strftime("%d.%m.%Y"), visit=day.strftime("%Y-%m-%d"))
    found = {v.name: v for v in checked(text, clinical=["visit"], acquisition=["exam:date"]).variables}
    assert {name: v.kind for name, v in found.items()} == {
        "visit": "continuous",
        "exam_year": "ordinal",
        "exam_days": "continuous",
    }
    assert found["exam_days"].values.tolist() == [9.0 * i for i in range(N)]
    assert np.diff(found["visit"].values).tolist() == [9.0] * (N - 1)
    with pytest.raises(UserError, match=r"column `exam` is declared date, but row 2 has `soon`"):
        checked(text.assign(exam=["2020-01-01", "soon"] * (N // 2)), acquisition={"exam": "date"})
