"""The vector store, its index and the neighbour graph, against brute force; damaged files are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohort.errors import UserError
from embed.index import build_index, read_index, write_index
from embed.neighbours import knn_graph, normalised
from embed.vectors import load_vectors, write_vectors

ARCHIVE = Path(__file__).parent / "archive"


def store(folder: Path, n: int = 50, dim: int = 8) -> Path:
    folder.mkdir()
    values = np.random.default_rng(0).normal(size=(n, dim)).astype(np.float32)
    images = pd.DataFrame(
        {"image_id": [f"i{k}" for k in range(n)], "patient": [f"P{k // 2}" for k in range(n)], "split": "train"}
    )
    write_vectors(folder, values, images, {"backbone": "pixels", "fingerprint": "x"})
    write_index(folder, build_index(values))
    return folder


def test_round_trip(tmp_path: Path) -> None:
    vectors = load_vectors(store(tmp_path / "v"))
    assert vectors.values.dtype == np.float32
    assert isinstance(vectors.values, np.memmap)
    assert vectors.spec["schema"] == "pellucid.vectors/1"
    assert vectors.name == "pixels"


def test_every_archived_version_still_loads() -> None:
    folders = sorted(ARCHIVE.glob("vectors-*"))
    assert folders
    for folder in folders:
        vectors = load_vectors(folder)
        assert vectors.values.shape == (vectors.spec["n"], vectors.spec["dim"])
        assert read_index(folder, len(vectors.images)).ntotal == vectors.spec["n"]


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    a, b = store(tmp_path / "a"), store(tmp_path / "b", n=40)
    shutil.copy(b / "vectors.npy", a / "vectors.npy")
    with pytest.raises(UserError, match="the files do not belong together"):
        load_vectors(a)
    shutil.copy(b / "index.faiss", a / "index.faiss")
    with pytest.raises(UserError, match=r"holds 40 vectors, but vectors\.npy has 50"):
        read_index(a, 50)
    (b / "vectors.npy").write_bytes((b / "vectors.npy").read_bytes()[:300])
    with pytest.raises(UserError, match=r"vectors\.npy: is damaged"):
        load_vectors(b)
    (b / "index.faiss").write_bytes(b"IxFI")
    with pytest.raises(UserError, match=r"index\.faiss: is damaged"):
        read_index(b, 40)
    with pytest.raises(UserError, match="holds no vectors"):
        load_vectors(tmp_path)


def test_other_schema_is_refused(tmp_path: Path) -> None:
    folder = store(tmp_path / "v")
    spec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
    (folder / "spec.json").write_text(json.dumps(spec | {"schema": "pellucid.vectors/9"}), encoding="utf-8")
    with pytest.raises(UserError, match=r"has schema 'pellucid\.vectors/9'; this version reads pellucid\.vectors/1"):
        load_vectors(folder)


@given(st.integers(2, 60), st.integers(1, 16), st.integers(1, 20), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_graph_is_exact_and_starts_with_oneself(n: int, dim: int, k: int, copies: int) -> None:
    rng = np.random.default_rng(n * 1000 + dim)
    values = rng.normal(size=(n, dim)).astype(np.float32)
    for c in range(min(copies, n - 1)):  # duplicates must not push the point itself out of column 0
        values[c + 1] = values[0]
    found, distances = knn_graph(values, k)
    k = min(k, n)
    assert found.shape == distances.shape == (n, k)
    assert (found[:, 0] == np.arange(n)).all()
    assert (np.diff(distances, axis=1) >= -1e-6).all()
    unit = normalised(values)
    exact = np.sort(1 - unit @ unit.T, axis=1)[:, :k]
    assert np.allclose(distances, np.clip(exact, 0, 2), atol=1e-5)
    assert all(len(set(row)) == k for row in found.tolist())


def test_large_index_finds_nearly_all() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(60, 32)) * 3
    values = (centres[rng.integers(0, 60, 6000)] + rng.normal(size=(6000, 32))).astype(np.float32)
    exact, compact = build_index(values), build_index(values, exact_up_to=1000)
    assert type(exact).__name__ == "IndexFlatIP"
    assert "IVF" in type(compact).__name__
    queries = normalised(values[:200])
    truth, found = exact.search(queries, 20)[1], compact.search(queries, 20)[1]
    recall = np.mean([len(set(a) & set(b)) / 20 for a, b in zip(truth, found, strict=True)])
    assert recall > 0.9
