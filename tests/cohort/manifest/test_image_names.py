"""Which file a name means: folders, capitals, endings, and files of one name in many folders."""

from __future__ import annotations

import pandas as pd
import pytest

from pellucid.cohort.manifest.image_names import ImageNames, names_found, resolve_rows

FILES = ["site/a1.png", "site/b2.png", "site/DSC_3.JPG", "12.png", "1.2.840.1", "1.2.840.2"]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("site/a1.png", "site/a1.png"),
        ("D:\\Study 2021\\Export\\site\\a1.png", "site/a1.png"),
        ("/home/x/site/a1.png", "site/a1.png"),
        ("file:///home/x/site/a1.png", "site/a1.png"),
        ("./site/a1.png ", "site/a1.png"),
        ("images/site/a1.png", "site/a1.png"),
        ("a1", "site/a1.png"),
        ("A1.PNG", "site/a1.png"),
        ("a1.jpg", "site/a1.png"),
        ("dsc_3.jpg", "site/DSC_3.JPG"),
        ("12.0", "12.png"),
        ("12", "12.png"),
        ("1.2.840.1", "1.2.840.1"),
        ("a2.png", None),
        ("1.2.840", None),
        ("", None),
    ],
)
def test_one_name_one_file(name: str, file: str | None) -> None:
    found = ImageNames(FILES, "/data/images").find(name)
    assert (found.files if found else None) == ((file,) if file else None)


def resolved(names: list[str], files: list[str], **hints: list[str]):  # type: ignore[no-untyped-def]
    return resolve_rows(pd.Series(names, dtype=object), ImageNames(files), {}, pd.DataFrame(hints) if hints else None)


def test_ways_may_differ_from_row_to_row() -> None:
    found = resolved(["a1", "site/b2.png", "C:\\x\\site\\dsc_3.jpg", "12.0"], FILES)
    assert [found.targets[i][0] for i in range(4)] == ["site/a1.png", "site/b2.png", "site/DSC_3.JPG", "12.png"]


EYES = [f"p{i}/{eye}.png" for i in range(4) for eye in ("left", "right")]


def test_the_same_name_in_every_patients_folder_joins_by_patient() -> None:
    names, who = ["left.png", "right.png"] * 4, [f"p{i // 2}" for i in range(8)]
    found = resolved(names, EYES, who=who)
    assert [found.targets[i][0] for i in range(8)] == EYES
    assert not found.unclear
    assert not found.twice


def test_the_same_name_without_a_patient_names_none_and_is_listed() -> None:
    found = resolved(["left.png", "left.png"], EYES)
    assert not found.targets
    assert not found.twice
    assert found.unclear[0] == ("p0/left.png", "p1/left.png", "p2/left.png", "p3/left.png")


def test_a_file_in_another_patients_folder_is_not_the_patients() -> None:
    """p9 has no folder; `only.png` is a name that one other patient's folder holds."""
    names = ["left.png", "left.png", "left.png", "only.png"]
    found = resolved(names, [*EYES, "p0/only.png"], who=["p0", "p1", "p2", "p9"])
    assert found.elsewhere == {3: "p0/only.png"}
    assert set(found.targets) == {0, 1, 2}


def test_a_second_column_of_folders_decides_between_visits() -> None:
    files = [f"p{i}/{visit}/x.png" for i in range(3) for visit in ("baseline", "month6")]
    who, visit = [f"p{i // 2}" for i in range(6)], ["baseline", "month6"] * 3
    found = resolved(["x.png"] * 6, files, who=who, visit=visit)
    assert [found.targets[i][0] for i in range(6)] == files


def test_a_folder_that_contradicts_is_no_match_where_folders_count() -> None:
    found = resolved(["a/x.png", "b/y.png"], ["a/x.png", "a/y.png"])
    assert set(found.targets) == {0}
    assert found.elsewhere == {1: "a/y.png"}


def test_folders_of_another_machine_do_not_matter_where_none_is_known() -> None:
    found = resolved(["D:\\old\\x.png", "D:\\old\\y.png"], ["new/x.png", "new/y.png"])
    assert {file for file, _ in found.targets.values()} == {"new/x.png", "new/y.png"}


def test_of_two_rows_the_more_exact_one_has_the_image() -> None:
    found = resolved(["x.png", "x.jpg"], ["x.png"])
    assert set(found.targets) == {0}
    assert found.elsewhere == {1: "x.png"}
    assert resolved(["x.png", "x.png"], ["x.png"]).twice == [[0, 1]]


def test_init_counts_as_the_scan_joins() -> None:
    names = pd.Series(["left.png", "right.png"] * 4, dtype=object)
    assert names_found(names, ImageNames(EYES)) == (0, 8)
    assert names_found(names, ImageNames(EYES), pd.DataFrame({"who": [f"p{i // 2}" for i in range(8)]})) == (8, 0)
