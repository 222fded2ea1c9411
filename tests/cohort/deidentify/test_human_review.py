"""A certificate is written only after a recorded review, and only into files that the reviewer could see."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from pellucid.cohort.deidentify import deidentify_study
from pellucid.cohort.deidentify.command import Deidentified
from pellucid.cohort.deidentify.review_sheet import UNMASKED_SHOWN, shown_stems
from pellucid.cohort.errors import UserError
from pellucid.cohort.runs.checksums import verify
from pellucid.cohort.study import Study, load_study


def dicom(seed: int) -> bytes:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = "1.2.840.10008.5.1.4.1.1.7", f"1.2.3.{seed}", "OT"
    ds.PatientName, ds.PatientID = "Novak^Jan", f"P{seed}"
    ds.Rows = ds.Columns = 32
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.PixelData = np.random.default_rng(seed).integers(0, 99, (32, 32), dtype=np.uint8).tobytes()
    ds["PixelData"].VR = "OB"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out = io.BytesIO()
    pydicom.dcmwrite(out, ds, enforce_file_format=True)
    return out.getvalue()


@pytest.fixture
def study(tmp_path: Path) -> Study:
    (tmp_path / "s" / "images").mkdir(parents=True)
    for seed in (1, 2):
        (tmp_path / "s" / "images" / f"{seed}.dcm").write_bytes(dicom(seed))
    (tmp_path / "s" / "study.yaml").write_text("images: images\npatient: {from_dicom: PatientID}\nscan: {workers: 1}\n")
    return load_study(tmp_path / "s")


def run(study: Study, tmp_path: Path, reviewed_by: str | None = None, **more: object) -> Deidentified:
    out, linkage = tmp_path / "out", tmp_path / "linkage.json"
    return deidentify_study(study, out, linkage, text="lines", reviewed_by=reviewed_by, progress=False, **more)


def statements(out: Path) -> list[tuple[str, bool]]:
    found = []
    for path in sorted((out / "raw").rglob("*.dcm")):
        dataset = pydicom.dcmread(path)
        codes = [code.CodeValue for code in dataset.DeidentificationMethodCodeSequence]
        found.append((str(dataset.get("BurnedInAnnotation", "")), "113101" in codes))
    return found


def test_a_review_is_recorded_and_certifies_what_it_saw(study: Study, tmp_path: Path) -> None:
    run(study, tmp_path)
    out = tmp_path / "out"
    assert statements(out) == [("", False)] * 2
    before = [pydicom.dcmread(path).pixel_array for path in sorted((out / "raw").rglob("*.dcm"))]
    assert run(study, tmp_path, reviewed_by="Dr Reviewer").certified == 2
    assert statements(out) == [("NO", True)] * 2
    for path, pixels in zip(sorted((out / "raw").rglob("*.dcm")), before, strict=True):
        np.testing.assert_array_equal(pydicom.dcmread(path).pixel_array, pixels)
    assert verify(out) == []
    (review,) = json.loads((tmp_path / "linkage.json").read_text())["reviews"]
    assert review["reviewer"] == "Dr Reviewer"
    assert all(b"Dr Reviewer" not in path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert json.loads((out / "review.json").read_text())[0]["images_shown"] == 2
    assert run(study, tmp_path).already_done
    assert statements(out) == [("NO", True)] * 2


def test_a_new_image_is_not_certified_by_an_old_review(study: Study, tmp_path: Path) -> None:
    run(study, tmp_path)
    run(study, tmp_path, reviewed_by="R")
    (study.image_root / "3.dcm").write_bytes(dicom(3))
    with pytest.raises(UserError, match="older than the images"):
        run(study, tmp_path, reviewed_by="R")
    assert run(study, tmp_path).certified == 2
    assert sorted(statements(tmp_path / "out")) == [("", False), ("NO", True), ("NO", True)]
    assert run(study, tmp_path, reviewed_by="R").certified == 3


def test_a_sheet_that_is_missing_or_changed_cannot_have_been_reviewed(study: Study, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its review sheet is missing, changed, or older"):
        run(study, tmp_path, reviewed_by="R")
    run(study, tmp_path)
    with pytest.raises(UserError, match="name the person who has looked through the review sheet"):
        run(study, tmp_path, reviewed_by=" ")
    (tmp_path / "out" / "review.html").write_text("all is well")
    with pytest.raises(UserError, match="repeat the command without --reviewed-by"):
        run(study, tmp_path, reviewed_by="R")
    assert statements(tmp_path / "out") == [("", False)] * 2


def test_the_sheet_shows_a_sample_or_all_and_only_what_it_shows_is_certified(study: Study, tmp_path: Path) -> None:
    records = {f"P/P-{i}": {"status": "ok", "boxes": [[0, 0, 1, 1]] if i < 5 else []} for i in range(200)}
    records["P/bad"] = {"status": "refused", "boxes": []}
    sample = shown_stems(records, "sample")
    assert len(sample) == 5 + UNMASKED_SHOWN
    assert shown_stems(records, "all") == set(records) - {"P/bad"}
    run(study, tmp_path)
    assert not run(study, tmp_path, show="all").already_done  # another sheet
    assert run(study, tmp_path).already_done  # as the last time
    assert run(study, tmp_path, reviewed_by="R").certified == 2


def test_a_killed_certification_is_repaired(study: Study, tmp_path: Path) -> None:
    run(study, tmp_path)
    out = tmp_path / "out"
    whole = (out / ".deidentify" / "records.jsonl").read_text()
    run(study, tmp_path, reviewed_by="R")
    (out / ".deidentify" / "records.jsonl").write_text(whole)  # the files were written, their records were not
    (out / "SHA256SUMS").unlink()
    run(study, tmp_path)
    assert verify(out) == []
    assert statements(out) == [("", False)] * 2
