"""The join: frames by file, facts of the headers as factors, names of people by number, pictures that bind patients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from pellucid.cohort.errors import UserError
from pellucid.cohort.manifest.join import build_manifest
from pellucid.cohort.study import load_study

BASE = "images: photos\n"


def written(folder: Path, yaml: str, table: pd.DataFrame | None = None):  # type: ignore[no-untyped-def]
    (folder / "photos").mkdir(exist_ok=True)
    (folder / "study.yaml").write_text(BASE + yaml, encoding="utf-8")
    if table is not None:
        table.to_csv(folder / "clinical.csv", index=False)
    return load_study(folder)


def rows(ids: Sequence[str], **columns: Sequence[object]) -> pd.DataFrame:
    """What the one pass says of readable images."""
    n = len(ids)
    own = {"status": ["ok"] * n, "reason": [""] * n, "sha256": [f"s{i}" for i in range(n)]}
    facts = {"header_patient_id": [""] * n, "header_model": [""] * n, "width": [640] * n}
    return pd.DataFrame({"image_id": list(ids), **own, **facts, **columns})


def by_image(manifest: pd.DataFrame, column: str) -> dict[str, object]:
    return dict(zip(manifest["image_id"], manifest[column], strict=True))


TABLE = "table: clinical.csv\nimage: file\npatient: who\nclinical: {grade: categorical}\n"


def test_a_row_names_a_file_and_so_all_its_frames(tmp_path: Path) -> None:
    table = pd.DataFrame({"file": ["a/us.dcm", "a/b#7.png"], "who": ["x", "y"], "grade": ["I", "II"]})
    ids = ["a/b#7.png", "a/us.dcm#0", "a/us.dcm#10"]
    images = rows(ids, frame=["", "0", "10"])
    manifest, problems = build_manifest(written(tmp_path, TABLE, table), images)
    assert by_image(manifest, "file") == {"a/b#7.png": "a/b#7.png", "a/us.dcm#0": "a/us.dcm", "a/us.dcm#10": "a/us.dcm"}
    assert by_image(manifest, "grade") == {"a/b#7.png": "II", "a/us.dcm#0": "I", "a/us.dcm#10": "I"}
    assert problems == []


@pytest.mark.parametrize(
    "name", [lambda f: f, lambda f: f"photos/{f}", lambda f: f.replace(".dcm", ""), lambda f: f.replace("a/", "")]
)
def test_a_row_may_name_one_frame_and_goes_before_the_file(tmp_path: Path, name) -> None:  # type: ignore[no-untyped-def]
    files = ["a/us.dcm#0", "a/us.dcm#2", "a/us.dcm"]
    table = pd.DataFrame({"file": [name(f) for f in files], "who": ["x", "x", "x"], "grade": ["I", "II", "rest"]})
    images = rows([f"a/us.dcm#{i}" for i in range(4)], frame=[str(i) for i in range(4)], file=["a/us.dcm"] * 4)
    manifest, problems = build_manifest(written(tmp_path, TABLE, table), images)
    assert manifest["grade"].tolist() == ["I", "rest", "II", "rest"]
    assert problems == []


def test_only_the_pass_says_what_a_frame_is(tmp_path: Path) -> None:
    """Without the column `frame` a # is part of a file's name."""
    table = pd.DataFrame({"file": ["us#1.png", "us#2.png"], "who": ["x", "y"], "grade": ["I", "II"]})
    manifest, _ = build_manifest(written(tmp_path, TABLE, table), rows(["us#1.png", "us#2.png"]))
    assert manifest["file"].tolist() == manifest["image_id"].tolist()
    assert manifest["grade"].tolist() == ["I", "II"]


def test_files_of_one_name_in_two_folders_are_told_apart_or_left_alone(tmp_path: Path) -> None:
    table = pd.DataFrame({"file": ["us.dcm", "other.dcm"], "who": ["x", "y"], "grade": ["I", "II"]})
    images = rows(["a/us.dcm#0", "b/us.dcm#0", "b/other.dcm#0"], frame=["0", "0", "0"])
    manifest, problems = build_manifest(written(tmp_path, TABLE, table), images)
    assert manifest["status"].tolist() == ["no_row", "no_row", "ok"]
    assert any("2 file(s) have no row in clinical.csv" in p for p in problems)


def test_frames_of_one_file_are_one_patient_where_none_is_known(tmp_path: Path) -> None:
    images = rows(["a.dcm#0", "a.dcm#1", "b.dcm#0"], frame=["0", "1", "0"])
    manifest, _ = build_manifest(written(tmp_path, "patient: none\n"), images)
    assert manifest["patient"].nunique() == 2
    assert manifest["patient"].iloc[0] == manifest["patient"].iloc[1]


FACTS = (
    "patient: {from_path: '^([^/]+)/'}\nacquisition: {header_model: categorical, header_year: ordinal, width: "
    "continuous}\n"
)
IDS = ["p1/a.png", "p1/b.png", "p2/c.png"]


def test_header_facts_are_factors_without_a_table(tmp_path: Path) -> None:
    images = rows(IDS, header_model=["X1", "", "X2"], header_year=["2019", "2020", ""])
    images.loc[1, ["status", "reason"]] = ["unreadable", "the file is empty"]
    manifest, _ = build_manifest(written(tmp_path, FACTS), images)
    assert manifest["header_model"].iloc[[0, 2]].tolist() == ["X1", "X2"]
    assert manifest["header_model"].isna().tolist() == [False, True, False], "nothing is known of an unreadable file"
    assert manifest["header_year"].iloc[0] == 2019
    assert np.isnan(manifest["header_year"].iloc[1:]).all()
    assert manifest["width"].iloc[[0, 2]].tolist() == [640.0, 640.0]
    assert "header_patient_id" not in manifest


def test_a_header_fact_and_a_column_of_its_name_is_a_mistake(tmp_path: Path) -> None:
    table = pd.DataFrame({"file": IDS, "who": ["x", "x", "y"], "width": [1, 2, 3]})
    study = written(
        tmp_path, "table: clinical.csv\nimage: file\npatient: who\nacquisition: {width: continuous}\n", table
    )
    with pytest.raises(
        UserError,
        match=r"clinical\.csv: the column name `width` is one that the manifest uses itself: rename it "
        r"\(in study\.yaml `width` is what the files themselves say\)",
    ):
        build_manifest(study, rows(IDS))


def test_a_header_fact_that_no_file_gives(tmp_path: Path) -> None:
    study = written(tmp_path, "patient: none\nacquisition: {header_modle: categorical}\n")
    with pytest.raises(
        UserError,
        match=(
            "no file says anything of `header_modle`; did you mean `header_model`\\?; the files give: "
            "header_model, width"
        ),
    ):
        build_manifest(study, rows(IDS, header_model=["X"] * 3))
    with pytest.raises(
        UserError, match=r"`header_model` is declared ordinal, but a file says `X` \(first: `p1/a\.png`\)"
    ):
        build_manifest(
            written(tmp_path, "patient: none\nacquisition: {header_model: ordinal}\n"),
            rows(IDS, header_model=["X"] * 3),
        )


def test_external_levels_of_a_header_fact(tmp_path: Path) -> None:
    study = written(tmp_path, "patient: {from_path: '^([^/]+)/'}\nexternal: {header_model: [X2]}\n")
    manifest, _ = build_manifest(study, rows(IDS, header_model=["X1", "X1", "X2"]))
    assert (manifest["split"] == "external").tolist() == [False, False, True]


def test_people_and_houses_go_by_keyed_names(tmp_path: Path) -> None:
    study = written(tmp_path, "patient: none\nacquisition: {header_operator: categorical}\n")
    who = ["Dr^Smith", "", "Jones", "Dr^Smith"]
    images = rows([*IDS, "p3/d.png"], header_operator=who, header_institution=["St Elsewhere"] * 4)
    manifest, problems = build_manifest(study, images)
    assert manifest["header_operator"].iloc[0] == manifest["header_operator"].iloc[3]
    named = manifest["header_operator"].dropna()
    assert named.nunique() == 2
    assert named.str.fullmatch("operator-[0-9a-f]{8}").all()
    assert manifest["header_institution"].str.fullmatch("institution-[0-9a-f]{8}").all()
    assert manifest["header_institution"].nunique() == 1
    everything = manifest.to_csv() + " ".join(problems)
    assert not any(name in everything for name in ("Smith", "Jones", "Elsewhere"))
    strict = written(tmp_path, "patient: none\nacquisition: {header_operator: ordinal}\n")
    with pytest.raises(UserError) as caught:
        build_manifest(strict, images)
    assert "Smith" not in str(caught.value), "not even in a mistake"


def speckle(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (128, 128), dtype=np.uint8)


def shared_study(folder: Path, extra: str = ""):  # type: ignore[no-untyped-def]
    """60 patients with one image each; the first and the last show the same picture in two encodings."""
    table = pd.DataFrame({"file": [f"i{k:02d}.png" for k in range(60)], "who": [f"pat{k:02d}" for k in range(60)]})
    table["fold"] = ["train" if k < 30 else "test" for k in range(60)]
    table["ill"] = ["yes" if k % 3 == 0 else "no" for k in range(60)]
    yaml = "table: clinical.csv\nimage: file\npatient: who\n" + extra
    hashes = [f"{k:04x}{k * 977 % 65536:04x}{k * 31337 % 65536:04x}{k * 50021 % 65536:04x}" for k in range(59)]
    images = rows(table["file"].tolist(), perceptual_hash=[*hashes, hashes[0]])
    pictures = {name: speckle(0 if k == 59 else k) for k, name in enumerate(table["file"])}
    return written(folder, yaml, table), images, lambda ids: np.stack([pictures[i] for i in ids])


def test_a_shared_picture_keeps_two_patients_on_one_side(tmp_path: Path) -> None:
    together = []
    for seed in range(6):
        study, images, thumbnails = shared_study(tmp_path, f"split: {{test: 0.5, seed: {seed}}}\n")
        manifest, problems = build_manifest(study, images, thumbnails)
        together.append(manifest["split"].iloc[0] == manifest["split"].iloc[59])
        assert manifest["duplicate_kind"].iloc[59] == "near"
        assert any("lie across different patients" in p for p in problems)
    assert all(together), "by chance alone this happens once in 64"


def test_a_fixed_split_is_kept_and_the_pair_is_named(tmp_path: Path) -> None:
    study, images, thumbnails = shared_study(tmp_path, "split: {column: fold}\n")
    manifest, problems = build_manifest(study, images, thumbnails)
    assert manifest["split"].tolist() == ["train"] * 30 + ["test"] * 30
    said = next(p for p in problems if p.startswith("split column `fold`: 1 group(s) of duplicates are on two sides"))
    assert {manifest["patient"].iloc[0], manifest["patient"].iloc[59]} <= set(said.replace("(", " ").split())
    assert "pat" not in said.replace("patient", "")


@pytest.mark.long
def test_outcomes_are_balanced_unless_told_otherwise(tmp_path: Path) -> None:
    def ill_in_test(extra: str) -> list[int]:
        found = []
        for seed in range(4):
            study, images, _ = shared_study(tmp_path, f"outcome: {{ill: binary}}\nsplit: {{seed: {seed}{extra}}}\n")
            manifest, _ = build_manifest(study, images)
            found.append(int(((manifest["split"] == "test") & (manifest["ill"] == "yes")).sum()))
        return found

    assert set(ill_in_test("")) == {4}, "a fifth of 20"
    assert ill_in_test(", stratify: [ill]") == ill_in_test("")
    assert len(set(ill_in_test(", stratify: []"))) > 1, "the hash alone"


def test_stratify_names_declared_variables_only(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"split\.stratify names `il`, which is no declared variable; did you mean `ill`"
    ):
        shared_study(tmp_path, "outcome: {ill: binary}\nsplit: {stratify: [il]}\n")
    with pytest.raises(UserError, match="the column `fold` decides, so `stratify` has no say: remove one of the two"):
        shared_study(tmp_path, "outcome: {ill: binary}\nsplit: {column: fold, stratify: [ill]}\n")
    with pytest.raises(
        UserError, match=r"a share of the patients, from 0 to less than 1, for example 0\.2; for 20 % write 0\.2"
    ):
        shared_study(tmp_path, "split: {test: 20}\n")


def test_a_declared_event_that_no_row_has_is_refused_before_anything_else(tmp_path: Path) -> None:
    table = pd.DataFrame({"file": IDS, "who": ["x", "x", "y"], "grade": ["low", "low", "high"]})
    base = "table: clinical.csv\nimage: file\npatient: who\n"
    for section in ("clinical", "outcome", "acquisition"):
        study = written(tmp_path, f"{base}{section}: {{grade: {{kind: binary, positive: hihg}}}}\n", table)
        with pytest.raises(UserError, match=r"clinical\.csv: `grade`: no level `hihg`.*the levels are `high`, `low`"):
            build_manifest(study, rows(IDS))
    study = written(tmp_path, f"{base}outcome: {{grade: {{kind: binary, positive: high}}}}\n", table)
    assert build_manifest(study, rows(IDS))[0]["grade"].tolist() == ["low", "low", "high"]


def test_all_wrong_cells_of_all_columns_are_named_at_once(tmp_path: Path) -> None:
    table = pd.DataFrame({"file": IDS, "who": ["x", "x", "y"], "age": ["40", "old", "45.0"], "crp": ["<0.1", "1", "2"]})
    yaml = "table: clinical.csv\nimage: file\npatient: who\nclinical: {age: continuous, crp: continuous}\n"
    with pytest.raises(UserError) as caught:
        build_manifest(written(tmp_path, yaml, table), rows(IDS))
    age, crp = str(caught.value).split("\n")
    assert "column `age` is declared continuous, but row 3 has `old`: correct it, or declare" in age
    assert "row 2 has `<0.1`" in crp
    assert "for a value below or above a limit write a number" in crp


def test_missing_words_are_named_and_can_be_declared(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"file": IDS, "who": ["x", "x", "y"], "eye": ["OD", "NA", "OS"], "treated": ["None", "yes", "yes"]}
    )
    yaml = "table: clinical.csv\nimage: file\npatient: who\nclinical: {eye: categorical, treated: binary}\n"
    manifest, problems = build_manifest(written(tmp_path, yaml, table), rows(IDS))
    assert manifest["treated"].tolist() == ["None", "yes", "yes"]
    assert manifest["eye"].isna().tolist() == [False, True, False]
    assert any('taken as no value: `eye`: "NA" 1 ×; if one of these words is a finding' in p for p in problems)
    manifest, _ = build_manifest(written(tmp_path, yaml + "missing: [OS]\n", table), rows(IDS))
    assert manifest["eye"].tolist()[:2] == ["OD", "NA"]
    assert manifest["eye"].isna().tolist() == [False, False, True]


def test_blanks_make_no_second_patient_and_words_make_none(tmp_path: Path) -> None:
    table = pd.DataFrame({"file": [*IDS, "p3/d.png"], "who": ["x", "x ", "unknown", "y"]})
    manifest, problems = build_manifest(
        written(tmp_path, "table: clinical.csv\nimage: file\npatient: who\n", table), rows([*IDS, "p3/d.png"])
    )
    assert manifest["patient"].iloc[0] == manifest["patient"].iloc[1]
    assert manifest["status"].tolist() == ["ok", "ok", "no_row", "ok"]
    assert any('1 row(s) have no `who` ("unknown" 1 ×)' in p for p in problems)


def test_one_id_of_two_sexes_at_two_sites_is_asked_about(tmp_path: Path) -> None:
    ids = [f"{s}/{i}.png" for i in range(3) for s in "AB"]
    table = pd.DataFrame(
        {"file": ids, "who": [1, 1, 2, 2, 3, 3], "Standort": ["A", "B"] * 3, "Geschlecht": ["w", "m"] * 3}
    )
    yaml = "table: clinical.csv\nimage: file\npatient: who\n"
    _, problems = build_manifest(written(tmp_path, yaml, table), rows(ids))
    said = next(p for p in problems if "several values" in p)
    assert (
        "3 of 3 ids in `who` have several values of `Geschlecht`, one for each `Standort` (first: rows 2 and 3)" in said
    )
    assert "add a column that joins `Standort` and `who`" in said
    _, problems = build_manifest(written(tmp_path, yaml, table.assign(who=range(6))), rows(ids))
    assert not any("several values" in p for p in problems)


def test_rows_that_name_one_of_several_files_are_listed_not_deleted(tmp_path: Path) -> None:
    ids = [f"p{i}/{eye}.png" for i in range(3) for eye in ("left", "right")]
    table = pd.DataFrame({"file": ["left.png", "right.png"] * 3, "who": [f"p{i // 2}" for i in range(6)]})
    yaml = "table: clinical.csv\nimage: file\npatient: who\n"
    manifest, problems = build_manifest(written(tmp_path, yaml, table), rows(ids))
    assert manifest["patient_source_id"].tolist() == [f"p{i // 2}" for i in range(6)]
    assert problems == []
    with pytest.raises(UserError, match=r"6 row\(s\) name a file of which several are in different folders") as caught:
        build_manifest(written(tmp_path, yaml, table.assign(who=list("abcdef"))), rows(ids))
    assert "keep one row" not in str(caught.value)


def test_a_column_of_days_becomes_a_year_and_days(tmp_path: Path) -> None:
    table = pd.DataFrame({"file": IDS, "who": ["x", "x", "y"], "exam": ["31.12.2020", "14.03.2021", "k.A."]})
    yaml = (
        "table: clinical.csv\nimage: file\npatient: who\nacquisition: {exam: date}\nexternal: {exam_year: [2021]}\n"
        "split: {test: 0.5, stratify: [exam_year]}\n"
    )
    manifest, problems = build_manifest(written(tmp_path, yaml, table), rows(IDS))
    assert "exam" not in manifest
    assert manifest["exam_year"].tolist()[:2] == [2020, 2021]
    assert manifest["exam_days"].tolist()[:2] == [0, 73]
    assert manifest[["exam_year", "exam_days"]].isna().all(axis=1).tolist() == [False, False, True]
    assert sum('taken as no value: `exam`: "k.A." 1 ×' in p for p in problems) == 1
    assert manifest["split"].tolist()[:2] == ["external", "external"], "the patient goes with one image of the level"
