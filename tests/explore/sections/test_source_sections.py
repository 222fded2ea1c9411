"""Sections of the source audit: the sentences of source.json in reading order; an older source.json is still shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from pellucid.explore.sections.source_sections import sections
from pellucid.explore.study_findings import gather


@pytest.mark.parametrize("source", [{}, {"sentences": ["720 images can be used."], "factors": [], "missing": []}])
def test_sections_missing_in_an_older_scan_are_left_out(source: dict[str, Any]) -> None:
    shown = sections(source, {"the file is empty": 2})
    assert [section.key for section in shown] == ["there", "quarantined"][-1 if not source else 0 :]
    assert all(section.title for section in shown)


def test_questions_of_the_scan_are_a_table_of_pairs() -> None:
    source = {"duplicates": {"to_look_at": [], "to_ask": [["P1", "P2"]] * 14, "n_questions": 14}}
    (section,) = sections(source, {})
    assert section.key == "duplicates"
    assert section.tables[0].title == "Pairs that may be copies (the first 12 of 14)"
    assert section.tables[0].rows == [("P1 and P2",)] * 12


def findings_near(whole: Any) -> Any:
    return gather(whole.study, whole.runs["scan"], [whole.runs["own"]], near_run=whole.runs["near"]).near


@pytest.mark.long
def test_pairs_and_unusual_images_are_shown_as_pictures_by_research_id(whole: Any) -> None:
    near = findings_near(whole)
    ids = near.unusual["image_id"].tolist()
    pair = {"group": "N0001", "image_id": ids[0], "other_image_id": ids[1], "patient": "P1", "other_patient": "P2",
            "split": "train", "other_split": "test", "similarity": 0.987, "ratio": 0.1,
            "agreement": 0.9, "how": "turned"}  # fmt: skip
    again = pair | {"other_image_id": ids[2]}
    asked = pair | {"other_image_id": ids[3], "other_patient": "P3", "how": "the same"}
    found = replace(near, pairs=pd.DataFrame([pair, again]), questions=pd.DataFrame([asked]))
    by_key = {section.key: section for section in sections({}, {}, found)}
    shown = by_key["near"].pictures
    assert [(row.title, list(row.images)) for row in shown] == [
        ("turned, similarity 0.99", [(ids[0], "P1 (train)"), (ids[1], "P2 (test)")]),
        ("a copy? the same, similarity 0.99", [(ids[0], "P1 (train)"), (ids[3], "P3 (test)")]),
    ], "of a group the first pair, then the questions"
    unlike = by_key["unusual"].pictures[0].images
    assert unlike[0][0] == ids[0]
    patients = [caption.partition(",")[0] for _, caption in unlike]
    assert len(set(patients)) == len(patients) == 12
    assert [s.key for s in sections({}, {}, None)] == []


@pytest.mark.long
def test_the_scan_of_a_phantom_is_shown_whole_and_in_order(whole: Any) -> None:
    source = whole.runs["scan"].read_json("source.json")
    shown = sections(source, {})
    order = [
        "there",
        "enough",
        "entangled",
        "per-patient",
        "quality",
        "calendar",
        "missing",
        "duplicates",
        "privacy",
        "splits",
    ]
    keys = [section.key for section in shown]
    assert keys == [key for key in order if key in keys]
    assert {"there", "enough", "entangled", "per-patient", "calendar", "splits"} <= set(keys)
    shown_sentences = [sentence for section in shown for sentence in section.sentences]
    assert all(text in shown_sentences for texts in source["sections"].values() for text in texts)
    both = sections(source, {}, findings_near(whole))
    assert [s.key for s in both if s.key in order] == keys, "the vectors add sections and change none"
    for section in shown:
        titles = [drawing.title for drawing in section.drawings]
        assert len(set(titles)) == len(titles)
        for drawing in section.drawings:
            assert drawing.figure().data
