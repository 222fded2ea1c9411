"""A regular expression of study.yaml finds patients, and cannot hang a scan."""

from __future__ import annotations

from pathlib import Path

import pytest

from pellucid.cohort.errors import UserError
from pellucid.cohort.path_pattern import compiled, patients_in_paths
from pellucid.cohort.study import load_study


def test_the_group_is_the_patient() -> None:
    assert patients_in_paths("^(p[0-9]*)/", ["p1/a.png", "x/a.png", "p/b.png"]) == ["p1", None, "p"]
    assert patients_in_paths("^(p?)", ["x"]) == [None]


@pytest.mark.parametrize("pattern", ["^(a|aa)+$", "^((?:a|a)+)+$"])
def test_a_pattern_that_would_take_years_is_stopped_with_a_sentence(pattern: str) -> None:
    with pytest.raises(UserError) as caught:
        patients_in_paths(pattern, ["short.png", "a" * 80 + "!"])
    assert f"study.yaml: patient: {{from_path: '{pattern}'}} needs more than 1 s for the path `aaa" in str(caught.value)
    assert "without a repeat inside a repeat" in str(caught.value)


def test_all_paths_together_have_a_limit_too() -> None:
    pattern = "^(a|aa)+$"  # about 0.1 s for each of these paths
    with pytest.raises(UserError, match=r"more than 1 s for 500 paths \(now: `aaaa"):
        patients_in_paths(pattern, ["a" * 26 + "!"] * 500, usual_s=0.5)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(a", "not a regular expression"),
        ("a", "needs exactly one group in parentheses, has 0"),
        ("(a)" + "b" * 1000, "has 1003"),
    ],
)
def test_what_is_no_pattern_is_said_when_the_study_is_read(tmp_path: Path, pattern: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"regular|group|characters"):
        compiled(pattern)
    (tmp_path / "study.yaml").write_text(f"images: x\npatient: {{from_path: '{pattern}'}}\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_study(tmp_path)
    assert said in str(caught.value)
    assert "`patient.from_path`" in str(caught.value)
