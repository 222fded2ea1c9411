"""Messages for logs: files whose names may name a patient are hidden, others are not."""

from __future__ import annotations

import time

import pytest

from pellucid.cohort.path_names import argument_without_names, without_names


@pytest.mark.parametrize(
    ("said", "hidden"),
    [
        ("2 files (first: `NOVAK_JAN/a.png`)", "2 files (first: `<name hidden>/a.png`)"),
        ("`Иванов.png` is damaged", "`<name hidden>.png` is damaged"),
        ("open photos/7000137.dcm failed", "open photos/<name hidden>.dcm failed"),
        ("[Errno 2] No such file: '/data/Novak Jan/x.png'", "[Errno 2] No such file: '/data/<name hidden>/x.png'"),
        ("`a/Müller.jpg#3`: cut", "`a/<name hidden>.jpg#3`: cut"),
        ('No such file: "/d/O\'Brien, Pat/x.png"', 'No such file: "/d/<name hidden>/x.png"'),
        ("can't open '/d/Novak Jan/x.png'", "can't open '/d/<name hidden>/x.png'"),
        ("cannot identify image file 'Novak Jan.png'", "cannot identify image file '<name hidden>.png'"),
        ("TIFF: /d/Novak Jan/x.tif: cut", "TIFF: /d/<name hidden>/x.tif: cut"),
        ("`/d/Novak%20Jan/x.png`", "`/d/<name hidden>/x.png`"),
        ("`/d/Vincent van Gogh/x.png`", "`/d/<name hidden>/x.png`"),
        ("`/d/14.08.48/x.png`", "`/d/<name hidden>/x.png`"),
        ("scan 2019-03-04/us.png", "scan <name hidden>/us.png"),
    ],
)
def test_names_numbers_and_dates_are_hidden(said: str, hidden: str) -> None:
    assert without_names(said) == hidden


@pytest.mark.parametrize(
    "said",
    ["`p1/a.png`: cut", "/home/x/study.yaml: there is no column `Patient Name`", "scan/scan-12345678 is done",
     "can't read /x/Novak and /y/Jan", "copied 'a.png' to \"b c\"",
     "pellucid 2.0.1: see docs/privacy.md", "12 of 130 files (9%)", "2019-03-04 in the column `visit`",
     "/x/analysis/read/read-79ccd21e/prepared/shard-000010000.arrow: is damaged",
     "`checkpoints/step-00000012.pt`: cut"],
)  # fmt: skip
def test_other_words_are_not(said: str) -> None:
    assert without_names(said, ["p17"]) == said


def test_ids_of_patients_are_hidden_where_they_are_known() -> None:
    assert without_names("`p17/scan.png`", ["p17"]) == "`<name hidden>/scan.png`"
    assert without_names("`x_mrn0042_b.png`", ["MRN0042"]) == "`<name hidden>.png`"
    assert without_names("`a17b.png`", ["17"]) == "`a17b.png`", "a short id counts as a whole name"


def test_an_argument_is_one_path_also_with_blanks() -> None:
    assert argument_without_names("/data/Novak Jan") == "/data/<name hidden>"
    assert argument_without_names("images=/data/Novak Jan") == "images=/data/<name hidden>"
    assert argument_without_names("--yes") == "--yes"


@pytest.mark.parametrize("piece", ["a", ".", "a/", "'a/", "A'", "A ", " /", '"a.', "1.", "`", "a'b/c"])
def test_a_long_message_takes_no_time(piece: str) -> None:
    began = time.monotonic()
    without_names(piece * 50_000)
    assert time.monotonic() - began < 3
