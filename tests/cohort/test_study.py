"""study.yaml is checked whole, and every mistake is a sentence that says what, where and what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pellucid.cohort.deidentify.linkage_file import Linkage
from pellucid.cohort.deidentify.output_table import write_study
from pellucid.cohort.errors import UserError
from pellucid.cohort.manifest.table_file import load_table
from pellucid.cohort.study import ScanConfig, as_level, load_study

GOOD = """
images: photos
table: clinical.csv
image: file_name
patient: patient_id
clinical: {diagnosis: categorical, age: continuous}
acquisition: {device: categorical}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def mistake(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_study(written(folder, text), overrides)
    return str(caught.value)


def test_good_study_knows_roles_and_paths(tmp_path: Path) -> None:
    study = load_study(written(tmp_path, GOOD))
    assert [(v.name, v.role, v.kind) for v in study.variables] == [
        ("diagnosis", "clinical", "categorical"),
        ("age", "clinical", "continuous"),
        ("device", "acquisition", "categorical"),
    ]
    assert study.image_root == tmp_path / "photos"
    assert study.analysis == tmp_path / "analysis"


def test_unknown_key_names_file_key_and_neighbour(tmp_path: Path) -> None:
    said = mistake(tmp_path, GOOD + "aquisition: {site: categorical}\n")
    assert said == f"{tmp_path / 'study.yaml'}: unknown key `aquisition`; did you mean `acquisition`?"


def test_nested_unknown_key(tmp_path: Path) -> None:
    assert "unknown key `split.tset`; did you mean `test`?" in mistake(tmp_path, GOOD + "split: {tset: 0.3}\n")


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    said = mistake(tmp_path, "imges: x\nclinical: {age: numeric}\nsplit: {test: 2}\n")
    for part in (
        "unknown key `imges`; did you mean `images`?",
        "the key `images` is missing",
        "the key `patient` is missing",
        "`clinical.age` is 'numeric': input should be 'categorical', 'binary', 'ordinal', 'continuous' or 'date'",
        "`split.test` is 2",
    ):
        assert part in said, said


def test_a_mistake_on_the_command_line_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    assert mistake(tmp_path, GOOD, "split.test=2").startswith("on the command line: `split.test` is 2")
    assert "embed.pooling, near.pooling" in mistake(tmp_path, GOOD, "pooling=mean")
    study = load_study(written(tmp_path, GOOD + "pretrain: {b: 1}\n"), ["pretrain.a=1"])
    with pytest.raises(UserError) as caught:
        study.section("pretrain", ScanConfig)
    assert str(caught.value).splitlines() == [
        f"{tmp_path / 'study.yaml'}: unknown key `pretrain.b`",
        "on the command line: unknown key `pretrain.a`",
    ]


def test_column_with_two_roles(tmp_path: Path) -> None:
    said = mistake(tmp_path, GOOD + "outcome: {device: binary}\n")
    assert "the column `device` is listed under acquisition and under outcome: choose one" in said


def test_columns_without_table(tmp_path: Path) -> None:
    said = mistake(tmp_path, "images: x\npatient: none\nclinical: {age: continuous}\n")
    assert "columns are named but there is no `table`" in said


def test_patient_pattern_needs_one_group(tmp_path: Path) -> None:
    said = mistake(tmp_path, "images: x\npatient: {from_path: 'P[0-9]+'}\n")
    assert "needs exactly one group in parentheses, has 0" in said


def test_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"study\.yaml: no such file; `pellucid init FOLDER` drafts a study\.yaml"):
        load_study(tmp_path)


def test_broken_yaml(tmp_path: Path) -> None:
    assert "not valid YAML" in mistake(tmp_path, "images: [photos\n")


def test_override_wins_and_is_checked(tmp_path: Path) -> None:
    assert load_study(written(tmp_path, GOOD), ["split.test=0.5"]).config.split.test == 0.5
    assert "an override is written key=value" in mistake(tmp_path, GOOD, "split.test")


def test_path_override_is_relative_to_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert load_study(written(tmp_path, GOOD), ["data=here"]).image_root == elsewhere / "here" / "photos"


def test_environment_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = GOOD + "data: ${from_env:PELLUCID_TEST_DATA}/set\n"
    monkeypatch.delenv("PELLUCID_TEST_DATA", raising=False)
    assert "the environment variable PELLUCID_TEST_DATA is not set" in mistake(tmp_path, text)
    assert load_study(tmp_path, ["data=/somewhere"]).image_root == Path("/somewhere/photos")
    monkeypatch.setenv("PELLUCID_TEST_DATA", str(tmp_path / "env"))
    assert load_study(tmp_path).image_root == tmp_path / "env" / "set" / "photos"


def test_config_file_lies_between_study_and_overrides(tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("split: {test: 0.4, seed: 3}\n", encoding="utf-8")
    study = load_study(written(tmp_path, GOOD), ["split.seed=7"], other)
    assert (study.config.split.test, study.config.split.seed) == (0.4, 7)


@pytest.mark.parametrize(
    "folder", sorted((Path(__file__).parents[2] / "configs" / "study").iterdir()), ids=lambda p: p.name
)
def test_shipped_studies_are_valid(folder: Path) -> None:
    assert load_study(folder, ["data=/anywhere"]).variables


def test_table_keeps_ids_as_text_and_numbers_as_numbers(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,age\n007,41\n012,\n", encoding="utf-8")
    table = load_table(path).frame
    assert table["id"].tolist() == ["007", "012"]
    assert table["age"].iloc[0] == 41


def test_european_table(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id;size\na;1,5\nb;2,5\n", encoding="utf-8")
    assert load_table(path).frame["size"].tolist() == [1.5, 2.5]


def test_table_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    with pytest.raises(UserError, match="the table is not there; correct its name"):
        load_table(path)
    path.write_text("patient_id,age\n1,2\n", encoding="utf-8")
    with pytest.raises(
        UserError, match="there is no column `patientid`; did you mean `patient_id`\\?\nthe table has: patient_id, age"
    ):
        load_table(path, ["patientid"])
    path.write_text("patient_id,age\n", encoding="utf-8")
    with pytest.raises(UserError, match="the table has no rows"):
        load_table(path)
    with pytest.raises(UserError, match=r"a table is \.csv, \.tsv, \.xlsx or \.parquet, not `\.json`"):
        (tmp_path / "t.json").write_text("{}", encoding="utf-8")
        load_table(tmp_path / "t.json")


def test_a_binary_variable_may_declare_its_event(tmp_path: Path) -> None:
    def read(declared: str) -> list[tuple[str, str, str | None]]:
        path = tmp_path / "study.yaml"
        path.write_text(
            f"images: photos\ntable: t.csv\nimage: file\npatient: id\nclinical: {{diagnosis: {declared}}}\n"
        )
        return [(v.name, v.kind, v.positive) for v in load_study(path).variables]

    assert read("binary") == [("diagnosis", "binary", None)]
    assert read("{kind: binary, positive: malignant}") == [("diagnosis", "binary", "malignant")]
    assert read("{kind: binary, positive: 1}") == [("diagnosis", "binary", "1")]
    assert read("{kind: binary, positive: yes}") == [("diagnosis", "binary", "true")]
    assert read("{kind: ordinal}") == [("diagnosis", "ordinal", None)]
    with pytest.raises(UserError, match="only a variable of kind binary has an event"):
        read("{kind: ordinal, positive: 3}")
    with pytest.raises(UserError, match=r"`clinical\.diagnosis` is 'binry': input should be 'categorical'"):
        read("binry")


def test_the_de_identified_study_keeps_the_declared_event(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(
        "images: photos\ntable: t.csv\nimage: file\npatient: id\noutcome: {grade: {kind: binary, positive: high}}\n"
    )
    write_study(tmp_path / "copy.yaml", load_study(tmp_path), Linkage.__new__(Linkage))
    assert load_study(tmp_path / "copy.yaml").config.outcome == load_study(tmp_path).config.outcome


@pytest.mark.parametrize(
    ("value", "level"),
    [(3.0, "3"), (np.float32(3), "3"), (0.5, "0.5"), (1234567.0, "1234567"), (True, "True"), (" left ", "left")],
)
def test_a_level_is_named_as_the_user_wrote_it(value: object, level: str) -> None:
    assert as_level(value) == level
