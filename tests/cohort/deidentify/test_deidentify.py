"""De-identification as a whole: what is refused, what continues, and what comes out."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

from pellucid.cohort.deidentify import deidentify_study, raster_files
from pellucid.cohort.deidentify.precheck import pass_gate
from pellucid.cohort.errors import UserError
from pellucid.cohort.identifiers import ocr
from pellucid.cohort.readers import UnreadableImage
from pellucid.cohort.runs.checksums import verify
from pellucid.cohort.scan import scan
from pellucid.cohort.study import Study, load_study
from tests.cohort.deidentify.small_files import again, ct, png, shipped, small_study

ROOT = Path(__file__).resolve().parents[3]


def sums(out: Path) -> list[str]:
    return sorted(line for line in (out / "SHA256SUMS").read_text().splitlines())


def multi(n: int = 4) -> bytes:
    before = pydicom.dcmread(shipped("MR_small.dcm"))
    before.PixelData, before.NumberOfFrames = np.repeat(before.pixel_array[None], n, axis=0).tobytes(), n
    out = io.BytesIO()
    pydicom.dcmwrite(out, before)
    return out.getvalue()


def test_the_output_is_a_study_of_the_same_images_and_patients(study: Study, tmp_path: Path) -> None:
    done = again(study, tmp_path)
    assert not done.already_done
    out = tmp_path / "out"
    before = scan(study, progress=False).read_json("source.json")
    copied = load_study(out, [f"analysis={tmp_path / 'analysis'}", "scan.workers=1"])
    after = scan(copied, progress=False).read_json("source.json")
    assert (after["n_images"], after["n_patients"]) == (before["n_images"], before["n_patients"])
    assert [v.name for v in copied.variables] == [v.name for v in study.variables]
    assert verify(out) == []
    assert again(study, tmp_path).already_done


def test_an_output_that_is_not_ours_is_left_alone(study: Study, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty, and not made by"):
        again(study, tmp_path)
    with pytest.raises(UserError, match="the output may not lie in the folder of the images"):
        deidentify_study(study, study.image_root / "out", tmp_path / "linkage.json", progress=False)


def test_files_that_leave_the_study_leave_the_output(study: Study, tmp_path: Path) -> None:
    again(study, tmp_path)
    names = json.loads((tmp_path / "linkage.json").read_text())["files"]
    gone = sorted(p for p in study.image_root.rglob("*.jpg"))[0]
    stem = names[gone.relative_to(study.image_root).as_posix()]
    assert list((tmp_path / "out" / "raw").glob(f"{stem}.*"))
    gone.unlink()
    done = again(study, tmp_path)
    assert not done.already_done
    assert not list((tmp_path / "out" / "raw").glob(f"{stem}.*"))
    assert stem not in (tmp_path / "out" / "clinical.csv").read_text()
    assert json.loads((tmp_path / "linkage.json").read_text())["files"] == names


def test_unreadable_files_are_not_copied_and_are_listed_without_their_name(study: Study, tmp_path: Path) -> None:
    (study.image_root / "Musterfrau_Erika.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    done = again(study, tmp_path)
    stem = json.loads((tmp_path / "linkage.json").read_text())["files"]["Musterfrau_Erika.jpg"]
    assert done.refused >= 1
    assert not list((tmp_path / "out" / "raw").glob(f"{stem}.*"))
    sheet = (tmp_path / "out" / "review.html").read_text()
    assert stem in sheet
    assert "Musterfrau" not in sheet


def test_a_declared_column_that_names_people_is_refused(own_phantom: Path, tmp_path: Path) -> None:
    table = own_phantom / "clinical.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0] + ",last_name", *(line + ",Meier" for line in lines[1:])]) + "\n")
    study = load_study(own_phantom, ["clinical.last_name=categorical", "scan.workers=1"])
    with pytest.raises(UserError, match="the column `last_name` looks like names"):
        again(study, tmp_path)


def test_a_killed_call_is_continued_to_the_same_end(study: Study, tmp_path: Path) -> None:
    again(study, tmp_path)  # the undisturbed one
    whole = sums(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    code = (
        "import sys; from pathlib import Path; from pellucid.cohort.study import load_study; "
        "from pellucid.cohort.deidentify import deidentify_study; "
        "deidentify_study(load_study(Path(sys.argv[1]), ['scan.workers=1']), Path(sys.argv[2]), Path(sys.argv[3]), "
        "text='lines', progress=False)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, study.path, tmp_path / "out", tmp_path / "linkage.json"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    log = tmp_path / "out" / ".deidentify" / "records.jsonl"
    while child.poll() is None and (not log.is_file() or log.read_bytes().count(b"\n") < 3):
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert log.is_file()
    finished = (tmp_path / "out" / "SHA256SUMS").exists()
    assert not again(study, tmp_path).already_done or finished
    assert sums(tmp_path / "out") == whole
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_identifying_needs_text_that_can_be_read(study: Study, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mask=identifying needs text that can be read"):
        deidentify_study(study, tmp_path / "out", tmp_path / "l.json", text="lines", mask="identifying", progress=False)


@pytest.mark.parametrize("text", ["auto", "ocr"])
def test_without_ocr_only_lines_by_name_are_accepted(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(ocr, "available", lambda: False)
    with pytest.raises(UserError, match=r"ask for text=lines by name: .* misses text of one or two characters"):
        deidentify_study(study, tmp_path / "out", tmp_path / "l.json", text=text, progress=False)
    assert not (tmp_path / "out").exists()


def test_an_odd_file_costs_that_file_by_name_and_reason(tmp_path: Path) -> None:
    long = pydicom.dcmread(shipped("examples_palette.dcm"))
    for colour in ("Red", "Green", "Blue"):
        name = f"{colour}PaletteColorLookupTableData"
        setattr(long, name, bytes(long[name].value) + b"Erika Musterfrau")
    out = io.BytesIO()
    pydicom.dcmwrite(out, long)
    broken = ct().replace(b"ISO_IR 100", b"ISO_IR 1\xff\xfe")
    surplus = ct() + b"\xfe\xff\xdd\xe0\0\0\0\0" * 2
    files = {"a.png": png(), "long.dcm": out.getvalue(), "broken.dcm": broken, "surplus.dcm": surplus}
    study = small_study(tmp_path / "s", "\n".join(f"{name},PAT_{i}" for i, name in enumerate(files)), files)
    done = again(study, tmp_path)
    assert done.written + done.refused == len(files)
    raw = tmp_path / "out" / "raw"
    assert all(b"Musterfrau" not in path.read_bytes() for path in raw.rglob("*") if path.is_file())
    assert done.written >= 2


def test_an_unexpected_error_costs_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object) -> None:
        raise ZeroDivisionError("Erika Musterfrau")

    study = small_study(tmp_path / "s", "a.png,PAT_1\nb.dcm,PAT_2", {"a.png": png(), "b.dcm": ct()})
    monkeypatch.setattr(raster_files, "strip_png", fails)
    done = again(study, tmp_path)
    assert (done.written, done.refused) == (1, 1)
    sheet = (tmp_path / "out" / "review.html").read_text()
    assert "it cannot be cleaned: an unexpected error in its header or pixels (ZeroDivisionError)" in sheet
    assert "Musterfrau" not in sheet


@pytest.mark.parametrize("what", ["gone", "changed", "table", "review"])
def test_what_was_lost_or_changed_is_restored(tmp_path: Path, what: str) -> None:
    study = small_study(tmp_path / "s", "a.png,PAT_1\nb.png,PAT_2", {"a.png": png(), "b.png": png()})
    again(study, tmp_path)
    out = tmp_path / "out"
    whole = sums(out)
    image = next((out / "raw").rglob("*.png"))
    if what == "gone":
        image.unlink()
    else:
        {"changed": image, "table": out / "clinical.csv", "review": out / "review.html"}[what].write_bytes(b"x")
    assert not again(study, tmp_path).already_done
    assert sums(out) == whole
    assert verify(out) == []
    assert again(study, tmp_path).already_done


@pytest.mark.long
def test_rows_of_frames_stay_rows_of_frames(tmp_path: Path) -> None:
    study = small_study(
        tmp_path / "s",
        "x.dcm#1,PAT_1,3\nx.dcm#3,PAT_1,4\ny.dcm,PAT_2,5\nz.dcm#0,PAT_2,6\nz.dcm#1,PAT_3,7",
        {name: multi() for name in ("x.dcm", "y.dcm", "z.dcm")},
        columns=",extent",
        more="clinical: {extent: ordinal}\n",
    )
    done = again(study, tmp_path)
    assert (done.written, done.refused) == (2, 1)
    assert "the table gives its frames to different patients" in (tmp_path / "out" / "review.html").read_text()

    def extents(of: Study) -> list[tuple[str, float]]:
        run = scan(of, progress=False)
        manifest = pd.read_parquet(run.path / "manifest.parquet")
        manifest = manifest[(manifest["status"] == "ok") & ~manifest["file"].str.startswith("z")]
        return sorted(zip(manifest["frame"], manifest["extent"], strict=True))

    copied = load_study(tmp_path / "out", [f"analysis={tmp_path / 'analysis'}", "scan.workers=1"])
    assert extents(copied) == extents(study) == [("0", 5), ("1", 3), ("1", 5), ("2", 5), ("3", 4), ("3", 5)]


def test_split_and_levels_held_out_are_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)  # copies of one picture would be bound together
    files = {
        f"{i}.dcm": ct(StationName=f"CT{i % 2}", PixelData=rng.integers(0, 900, (128, 128), dtype=np.int16).tobytes())
        for i in range(6)
    }
    study = small_study(
        tmp_path / "s",
        "\n".join(f"{i}.dcm,PAT_{i}" for i in range(6)),
        files,
        more="acquisition: {header_manufacturer: categorical, header_station: categorical}\n"
        "split: {seed: 7, test: 0.4, stratify: [header_manufacturer]}\nexternal: {header_station: [CT1]}\n",
    )
    again(study, tmp_path)
    copied = load_study(tmp_path / "out", [f"analysis={tmp_path / 'analysis'}", "scan.workers=1"])
    assert (copied.config.split.seed, copied.config.split.stratify) == (7, ["file_manufacturer"])
    assert "CT1" not in (tmp_path / "out" / "study.yaml").read_text()
    manifest = pd.read_parquet(scan(copied, progress=False).path / "manifest.parquet")
    held = manifest[manifest["split"].str.startswith("external")]
    assert len(held) == 3
    assert held["file_station"].nunique() == 1


@pytest.mark.long
def test_a_decoder_that_does_not_end_costs_a_file_and_not_the_call(tmp_path: Path) -> None:
    study = small_study(tmp_path / "s", "a.png,PAT_1\nb.png,PAT_2", {"a.png": png(), "b.png": png()})
    limits = study.config.scan.model_copy(update={"time_limit_s": 1e-5})
    with pytest.raises(UnreadableImage, match="reading took longer than"):
        pass_gate(study.image_root, "a.png", png(), limits)
    pass_gate(study.image_root, "a.png", png(), study.config.scan)


def test_the_review_sheet_says_how_to_leave_a_picture_out(tmp_path: Path) -> None:
    again(small_study(tmp_path / "s", "a.png,PAT_1", {"a.png": png()}), tmp_path)
    assert (
        "move it out of the images of the study, and repeat the command" in (tmp_path / "out/review.html").read_text()
    )
