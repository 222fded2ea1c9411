"""Whom the split keeps together: equal images bind, near duplicates bind a few, and questions bind nobody."""

from __future__ import annotations

import pandas as pd

from pellucid.cohort.duplicates.duplicate_groups import Duplicates
from pellucid.cohort.duplicates.shared_images import MAX_BOUND, binding, duplicate_sentences
from pellucid.cohort.manifest.patient_split import units_of

Row = tuple[str, str, str, str, str]  # image, patient, group, kind, original


def manifest_of(rows: list[Row], questions: dict[str, str] | None = None) -> tuple[pd.DataFrame, Duplicates]:
    names = ["image_id", "patient_source_id", "duplicate_group", "duplicate_kind", "duplicate_of"]
    frame = pd.DataFrame(rows, columns=names).assign(status="ok", split="train")
    frame["patient"] = frame["patient_source_id"].str.upper()
    frame["duplicate_question"] = [(questions or {}).get(name, "") for name in frame["image_id"]]
    return frame, Duplicates(frame.iloc[:, :0], frozenset(), 0, True)


def chain(n: int, kind: str) -> list[Row]:
    """Patients p00 and p01 share an image, p01 and p02 another one, and so on."""
    rows = []
    for k in range(n - 1):
        rows += [(f"a{k}", f"p{k:02d}", f"D{k:04d}", "", ""), (f"b{k}", f"p{k + 1:02d}", f"D{k:04d}", kind, f"a{k}")]
    return rows


def largest_unit(manifest: pd.DataFrame, found: Duplicates) -> int:
    units = units_of(manifest["patient_source_id"], binding(manifest, found))
    return int(pd.Series(units).value_counts().max())


def test_near_duplicates_never_bind_more_than_ten_patients() -> None:
    manifest, found = manifest_of(chain(40, "near"))
    assert largest_unit(manifest, found) == MAX_BOUND
    said = duplicate_sentences(manifest, found, None)
    assert any(s.startswith("images: 3 group(s) of near duplicates (P09 and P10; ") for s in said)
    assert any("would bind more than 10 patients to one side of the split, one through another" in s for s in said)


def test_equal_images_bind_without_limit() -> None:
    assert largest_unit(*manifest_of(chain(40, "exact"))) == 40


def test_an_equal_image_binds_even_if_its_near_duplicates_do_not() -> None:
    rows = chain(MAX_BOUND, "near")
    rows += [("x", "p00", "D9999", "", ""), ("y", "q", "D9999", "exact", "x"), ("z", "r", "D9999", "near", "x")]
    manifest, found = manifest_of(rows)
    units = units_of(manifest["patient_source_id"], binding(manifest, found))
    assert units["q"] == units["p00"]
    assert units["r"] == "r"


def test_a_question_binds_nobody_and_blames_nobody() -> None:
    rows = [("a", "p1", "", "", ""), ("b", "p2", "", "", ""), ("c", "p3", "", "", "")]
    manifest, found = manifest_of(rows, {"a": "Q0001 Q0002", "b": "Q0001", "c": "Q0002"})
    assert binding(manifest, found) == []
    assert duplicate_sentences(manifest, found, None) == [
        "images: 2 pair(s) of images of different patients are very alike, but not clearly copies (P1 and P2; P1 and "
        "P3): are they the same image? They bind no patients (first: `a = b`) (`duplicate_question` in "
        "manifest.parquet)"
    ]
