"""Missing words by kind, ids that are one patient, and numbers however they are written."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from pellucid.cohort.manifest.cell_values import (
    as_ids,
    as_level_text,
    as_numbers,
    holds_lists,
    missing_cells,
    names_places,
    only_numbers,
    taken_sentence,
    words_taken,
)


def column(*values: object) -> pd.Series:  # type: ignore[type-arg]
    return pd.Series(list(values), dtype=object)


@pytest.mark.parametrize(
    "word",
    [
        "",
        " ",
        "NA",
        "n/a",
        "n.a.",
        "k.A.",
        "-",
        "--",
        ".",
        "#N/A",
        "#DIV/0!",
        "not known",
        "nd",
        "N/A ",
        "?",
        "unbekannt",
    ],
)
@pytest.mark.parametrize("kind", ["categorical", "continuous"])
def test_words_for_no_value(word: str, kind: str) -> None:
    assert missing_cells(column(word, "1"), kind).tolist() == [True, False]


def test_none_is_a_finding_among_levels_and_no_value_among_numbers() -> None:
    assert not missing_cells(column("None", "present"), "binary").any()
    assert missing_cells(column("None", "3"), "continuous").tolist() == [True, False]
    assert as_ids(column("None", "3")).tolist() == [None, "3"]


def test_na_beside_countries_or_continents_is_one() -> None:
    assert names_places(column("NA", "EU", "US"))
    assert not missing_cells(column("NA", "EU"), "categorical").any()
    for others in (["OD", "OS"], ["NO"], ["yes", "no"], []):
        assert missing_cells(column("NA", *others), "categorical").tolist()[0]


def test_declared_words_replace_the_usual_ones() -> None:
    cells = column("NA", "-", "k", None, "")
    assert missing_cells(cells, "categorical", ["k"]).tolist() == [False, False, True, True, True]
    assert missing_cells(pd.Series([1.0, -9.0]), "continuous", [-9]).tolist() == [False, True]


def test_a_category_is_a_level_whatever_it_is_called() -> None:
    assert missing_cells(pd.Series(pd.Categorical(["none", "unknown", None]))).tolist() == [False, False, True]


def test_the_words_are_named() -> None:
    cells = column("NA", "NA", "-", None, "x")
    assert taken_sentence(words_taken(cells, missing_cells(cells))) == '"NA" 2 ×, "-" 1 ×'


def test_one_patient_has_one_id() -> None:
    assert as_ids(column("P1", "P1 ", "P1\u00a0", "\u200bP1")).nunique() == 1
    assert as_ids(column("Mu\u0308ller", "M\u00fcller")).nunique() == 1
    assert as_ids(column("1.0", "1", "2.0")).tolist() == ["1", "1", "2"]
    assert as_ids(column(1, 1.0)).tolist() == ["1", "1"]
    assert as_ids(column("01", "1")).nunique() == 2
    assert as_ids(column("1.0", "A7")).tolist() == ["1.0", "A7"], "of codes nothing is cut off"


def test_numbers_as_people_write_them() -> None:
    cells = column("45.0", "1.50", "+5", "1e-3", "\u22122", "045Y", "006M", 7)
    assert as_numbers(cells).tolist() == [45, 1.5, 5, 0.001, -2, 45, 0.5, 7]
    assert all(math.isnan(v) for v in as_numbers(column("<0.1", "nan", "inf", "1_000", "0x10", "1,5", "")))


def test_two_texts_for_one_power_are_codes() -> None:
    assert only_numbers(column("1e-3", "2e-3"))
    assert not only_numbers(column("1E5", "10e4"))


def test_levels_of_a_manifest_are_kept_as_they_are() -> None:
    assert as_level_text(column("none", "unknown", None, 3.0, "")).tolist() == ["none", "unknown", None, "3", None]


def test_lists_are_seen() -> None:
    assert holds_lists(column(["a"], None))
    assert not holds_lists(column("a", 1, None))
