"""The vector store: round trip, archived versions, and damaged files, which are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pellucid.cohort.errors import UserError
from pellucid.embed.store.vectors import load_vectors, to_float16, write_vectors

ARCHIVE = Path(__file__).parents[1] / "archive"


def store(folder: Path, n: int = 50, dim: int = 8) -> Path:
    folder.mkdir()
    values = np.random.default_rng(0).normal(size=(n, dim)).astype(np.float32)
    images = pd.DataFrame(
        {"image_id": [f"i{k}" for k in range(n)], "patient": [f"P{k // 2}" for k in range(n)], "split": "train"}
    )
    write_vectors(folder, values, images, {"backbone": "pixels", "fingerprint": "x"})
    return folder


def test_round_trip(tmp_path: Path) -> None:
    vectors = load_vectors(store(tmp_path / "v"))
    assert vectors.values.dtype == np.float32
    assert isinstance(vectors.values, np.memmap)
    assert vectors.spec["schema"] == "pellucid.vectors/2"
    assert vectors.name == "pixels"


def test_every_archived_version_still_loads() -> None:
    folders = sorted(ARCHIVE.glob("vectors-*"))
    assert folders
    for folder in folders:
        vectors = load_vectors(folder)
        assert vectors.spec["schema"] == f"pellucid.vectors/{folder.name.removeprefix('vectors-')}"
        assert vectors.values.shape == (vectors.spec["n"], vectors.spec["dim"])
        assert len(vectors.space) == 64
        assert vectors.spec["unit"] == "image"
    assert [folder.name for folder in folders] == ["vectors-1", "vectors-2"]
    assert load_vectors(folders[1]).tokens is not None


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    a, b = store(tmp_path / "a"), store(tmp_path / "b", n=40)
    shutil.copy(b / "vectors.npy", a / "vectors.npy")
    with pytest.raises(UserError, match="the files do not belong together"):
        load_vectors(a)
    (b / "vectors.npy").write_bytes((b / "vectors.npy").read_bytes()[:300])
    with pytest.raises(UserError, match=r"vectors\.npy: is damaged"):
        load_vectors(b)
    with pytest.raises(UserError, match="contains no vectors"):
        load_vectors(tmp_path)


def test_other_schema_is_refused(tmp_path: Path) -> None:
    folder = store(tmp_path / "v")
    spec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
    (folder / "spec.json").write_text(json.dumps(spec | {"schema": "pellucid.vectors/9"}), encoding="utf-8")
    with pytest.raises(UserError, match=r"has schema 'pellucid\.vectors/9'; this version reads pellucid\.vectors/2"):
        load_vectors(folder)


def test_tokens_are_read_with_the_vectors_they_belong_to(tmp_path: Path) -> None:
    folder = tmp_path / "v"
    folder.mkdir()
    rng = np.random.default_rng(0)
    tokens = to_float16(rng.normal(size=(3, 6, 4)).astype(np.float32))
    np.save(folder / "tokens.npy", tokens)
    images = pd.DataFrame({"image_id": list("abc"), "patient": list("abc"), "split": ""})
    said = {"backbone": "x", "fingerprint": "x", "tokens": {"grid": [2, 3], "width": 4, "dtype": "float16"}}
    write_vectors(folder, rng.normal(size=(3, 4)).astype(np.float32), images, said)
    vectors = load_vectors(folder)
    assert isinstance(vectors.tokens, np.memmap)
    assert np.array_equal(vectors.tokens, tokens)
    np.save(folder / "tokens.npy", tokens[:2])
    with pytest.raises(UserError, match=r"tokens\.npy: is \(2, 6, 4\) float16, but 3 images of 2 × 3 patches"):
        load_vectors(folder)
    (folder / "tokens.npy").unlink()
    with pytest.raises(UserError, match=r"tokens\.npy: is missing"):
        load_vectors(folder)


def test_half_overflows_to_no_infinity() -> None:
    given = np.array([1.5, 1e6, -1e6, np.nan], np.float32)
    assert np.array_equal(to_float16(given), np.array([1.5, 65504, -65504, np.nan], np.float16), equal_nan=True)


def test_a_spec_that_was_changed_or_cut_off_is_refused(tmp_path: Path) -> None:
    folder = store(tmp_path / "v")
    text = (folder / "spec.json").read_text(encoding="utf-8")
    (folder / "spec.json").write_text(json.dumps(json.loads(text) | {"pooling": "mean"}), encoding="utf-8")
    with pytest.raises(UserError, match=r"spec\.json: was edited: its `space` does not match its other entries"):
        load_vectors(folder)
    (folder / "spec.json").write_text(text[:50], encoding="utf-8")
    with pytest.raises(UserError, match=r"spec\.json: is damaged"):
        load_vectors(folder)
