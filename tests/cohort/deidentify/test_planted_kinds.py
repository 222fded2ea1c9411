"""Every kind of identifier in every channel: other scripts, short names, umlauts, glued words, dates, staff; none may
be found in a copy, a report, an export or a log, and nobody else may read what is written."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pydicom
import pytest

import pellucid
from pellucid.cohort.deidentify import deidentify_study
from pellucid.cohort.runs import RunFolder
from pellucid.cohort.scan import scan
from pellucid.cohort.study import Study, load_study

Planting = SimpleNamespace
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def planted(planting: Planting, tmp_path_factory: pytest.TempPathFactory) -> Study:
    return planting.plant(tmp_path_factory.mktemp("planted") / "study")


@pytest.fixture(scope="module")
def copy(planting: Planting, planted: Study) -> Path:
    base = planted.path.parent.parent
    done = deidentify_study(planted, base / "copy", base / "linkage.json", text="lines", progress=False)
    assert (done.written, done.refused) == (len(planting.people) * planting.kinds, 0)
    return base / "copy"


@pytest.fixture(scope="module")
def scanned_planted(planted: Study) -> RunFolder:
    return scan(planted, progress=False)


@pytest.mark.long
def test_nothing_that_was_planted_is_in_the_copy(planting: Planting, planted: Study, copy: Path) -> None:
    words, short = planting.identifiers(planting.people)
    originals = planting.files_below(planted.image_root)
    for path in originals:
        assert planting.leaks([path], planted.image_root, words, []), (
            f"the search does find what was planted in {path.name}"
        )
    assert planting.leaks(planting.files_below(copy), copy, words, short) == []


@pytest.mark.long
def test_the_name_on_the_third_frame_is_masked_and_nothing_certified(planting: Planting, copy: Path) -> None:
    for path in (p for p in planting.files_below(copy / "raw") if p.suffix == ".dcm"):
        dataset = pydicom.dcmread(path)
        assert "BurnedInAnnotation" not in dataset
        assert all(item.CodeValue != "113101" for item in dataset.DeidentificationMethodCodeSequence)
        assert dataset.pixel_array.max() < 150, "no ink is left on any frame"


@pytest.mark.long
def test_staff_has_one_keyed_name_everywhere(
    planting: Planting, planted: Study, copy: Path, scanned_planted: RunFolder
) -> None:
    table = pd.read_csv(copy / "clinical.csv")
    assert table["Operateur"].str.fullmatch(r"operateur-[0-9a-f]{8}").all()
    assert table["Operateur"].nunique() == 3
    assert table["file_operator"].dropna().str.fullmatch(r"operator-[0-9a-f]{8}").all()
    assert "remarks" not in table
    manifest = pd.read_parquet(scanned_planted.path / "manifest.parquet")
    ok = manifest[manifest["status"] == "ok"]
    assert ok["Operateur"].nunique() == 3
    assert ok["Operateur"].str.fullmatch(r"operateur-[0-9a-f]{8}").all()
    again = scan(load_study(copy, [f"analysis={copy.parent / 'again'}", "scan.workers=1"]), progress=False)
    kept = pd.read_parquet(again.path / "manifest.parquet")
    assert set(kept["Operateur"]) == set(table["Operateur"]), "keyed names are not keyed again"
    words, _ = planting.identifiers(planting.people)
    source = (scanned_planted.path / "source.json").read_text(encoding="utf-8")
    assert [word for word in words if word in source] == []


@pytest.mark.long
def test_only_the_owner_can_read_what_is_written(
    planting: Planting, planted: Study, copy: Path, scanned_planted: RunFolder
) -> None:
    for folder in (planted.analysis, copy):
        for path in [folder, *folder.rglob("*")]:
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert stat.S_IMODE((copy.parent / "linkage.json").stat().st_mode) == 0o600


@pytest.mark.long
def test_report_and_export_hold_nothing_that_was_planted(
    planting: Planting, planted: Study, scanned_planted: RunFolder
) -> None:
    base = planted.path.parent.parent
    pellucid.embed_study(planted, backbone="pixels", progress=False)
    report = pellucid.report_study(planted)
    pellucid.export_study(planted, to="parquet", out=base / "export.parquet")
    words, short = planting.identifiers(planting.people)
    assert planting.leaks([report.path / "report.html", base / "export.parquet"], base, words, short) == []
    assert {
        stat.S_IMODE(p.stat().st_mode) & 0o077 for p in [base / "export.parquet", *planted.analysis.rglob("*")]
    } == {0}


@pytest.mark.long
def test_the_command_line_writes_for_its_owner_and_names_nobody_in_logs(
    planting: Planting, tmp_path: Path, pellucid: Run
) -> None:
    two = planting.people[0], planting.people[-1]
    study = planting.plant(tmp_path / "study", two)
    bad = study.image_root / "Иванов_Пётр" / "Иванов-19480814-png.png"
    bad.write_bytes(bad.read_bytes()[:100])
    before = os.umask(0o022)
    try:
        refused = pellucid("scan", study.path, "scan.workers=1", "scan.max_unreadable=0")
        done = pellucid("scan", study.path, "scan.workers=1", "scan.max_unreadable=1")
        copied = pellucid(
            "deidentify", study.path, "scan.workers=1", "--text", "lines", "--out", tmp_path / "copy", "--linkage",
            tmp_path / "linkage.json",
        )  # fmt: skip
    finally:
        assert os.umask(before) == 0o022, "the umask of the process is as before"
    assert (refused.returncode, done.returncode, copied.returncode) == (2, 0, 0), refused.stderr + done.stderr
    assert "<name hidden>" in refused.stderr
    words, short = planting.identifiers(two)
    for run in (refused, done, copied):
        said = run.stdout + run.stderr
        assert [word for word in [*words, *short] if re.search(rf"(?<!\\w){re.escape(word)}(?!\\w)", said)] == []
    for folder in (study.analysis, tmp_path / "copy"):
        assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in [folder, *folder.rglob("*")]} == {0}
    source = json.loads(next(study.analysis.glob("scan/*/source.json")).read_text(encoding="utf-8"))
    assert len(source.pop("unreadable")) == 1  # with its path, as in the manifest: to find the file
    records = [json.dumps(source, ensure_ascii=False)]
    records += [path.read_text(encoding="utf-8") for path in study.analysis.rglob("run.json")]
    assert [word for record in records for word in words if word in record] == []


@pytest.mark.slow
def test_sixty_people_in_every_channel(planting: Planting, tmp_path: Path) -> None:
    many = tuple(
        planting.person(
            f"{p.surname}{'аеиоу王김æöx'[i % 10]}{i}x", p.given, f"MRN66{10000 + i}", f"19{30 + i}0{1 + i % 9}1{i % 10}"
        )
        for i, p in enumerate(planting.people * 10)
    )
    study = planting.plant(tmp_path / "study", many)
    done = deidentify_study(study, tmp_path / "copy", tmp_path / "linkage.json", text="lines", progress=False)
    assert (done.written, done.refused) == (60 * planting.kinds, 0)
    words, short = planting.identifiers(many)
    assert planting.leaks(planting.files_below(tmp_path / "copy"), tmp_path / "copy", words, short) == []
