"""Small files and studies that several tests of de-identification use."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image

from pellucid.cohort.deidentify import deidentify_study
from pellucid.cohort.study import Study, load_study


def nothing(views: object, names: object = ()) -> list[tuple[int, int, int, int]]:
    return []


def again(study: Study, tmp_path: Path) -> object:
    return deidentify_study(study, tmp_path / "out", tmp_path / "linkage.json", text="lines", progress=False)


def shipped(name: str) -> Path:
    """One of the files that lie in pydicom itself; nothing is fetched."""
    return Path(pydicom.data.__file__).parent / "test_files" / name


def ct(**values: object) -> bytes:
    dataset = pydicom.dcmread(shipped("CT_small.dcm"))
    for name, value in values.items():
        setattr(dataset, name, value)
    out = io.BytesIO()
    pydicom.dcmwrite(out, dataset)
    return out.getvalue()


def photo(mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)).convert(mode)


def small_study(folder: Path, rows: str, files: dict[str, bytes], *, more: str = "", columns: str = "") -> Study:
    """A study of few files: `rows` are those of its table below `file,pid,…`."""
    (folder / "images").mkdir(parents=True)
    for name, data in files.items():
        (folder / "images" / name).write_bytes(data)
    (folder / "clinical.csv").write_text(f"file,pid{columns}\n{rows}\n", encoding="utf-8")
    (folder / "study.yaml").write_text(
        f"images: images\ntable: clinical.csv\nimage: file\npatient: pid\n{more}scan: {{workers: 1}}\n"
    )
    return load_study(folder)


def png() -> bytes:
    out = io.BytesIO()
    photo("L").save(out, "PNG")
    return out.getvalue()
