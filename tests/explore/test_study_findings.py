"""Findings carry no file names, paths or original patient ids."""

from __future__ import annotations

from pellucid.explore import study_findings


def test_scrub_takes_paths_and_file_names() -> None:
    names = {"a/DOE_JANE_1.png": "image 1 of P00001", "DOE_JANE_1.png": "image 1 of P00001"}
    assert study_findings.scrub("row 3: a/DOE_JANE_1.png has no date", names) == "row 3: image 1 of P00001 has no date"
    assert study_findings.scrub("see /srv/jane/study/table.csv", {}) == "see (a path)"
    assert study_findings.scrub("0.5 in/out of 3/4", {}) == "0.5 in/out of 3/4"


def test_file_names_in_messages_stay_out_of_the_report() -> None:
    message = (
        "clinical.csv: 1 row(s) name an image that is not there (first: row 41, `DOE_JANE (2).jpg`): they are left out"
    )
    assert (
        study_findings.without_example(message)
        == "clinical.csv: 1 row(s) name an image that is not there: they are left out"
    )
    assert (
        study_findings.without_example("4 file(s) have no row (first: `x.jpg`): left") == "4 file(s) have no row: left"
    )
