"""Forgetting in a folder of vectors: rows, index and names go, the others find each other as before, and nothing comes
back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pellucid.cohort.errors import UserError
from pellucid.embed.extract.plain_folder import embed_folder
from pellucid.embed.index import open_index, verify_index
from pellucid.embed.index.knn_graph import normalised
from pellucid.embed.store import withdrawal
from pellucid.embed.store.vectors import load_vectors
from pellucid.embed.store.withdrawal import forget_in_store

NAMES = [f"image-{i:02d}.png" for i in range(12)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of twelve pictures and one broken file, and a store of its vectors. Read only."""
    folder = tmp_path_factory.mktemp("store")
    rng = np.random.default_rng(0)
    (folder / "in").mkdir()
    for name in NAMES:
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(folder / "in" / name)
    (folder / "in" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    embed_folder(folder / "in", "pixels", folder / "out", device="cpu", progress=False)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def everything(folder: Path) -> bytes:
    """All bytes of all files below the folder, and every text in its tables."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    tables = [pd.read_parquet(path).to_csv() for path in files if path.suffix == ".parquet"]
    return b"".join(path.read_bytes() for path in files) + "".join(tables).encode()


@pytest.mark.long
def test_rows_names_and_index_entries_go(folder: Path) -> None:
    before = load_vectors(folder / "out")
    values, names = np.array(before.values), before.images["image_id"].tolist()
    gone = [names.index(NAMES[3]), names.index(NAMES[7])]
    secrets = [row.tobytes() for part in (values, normalised(values)) for row in part[gone]]
    secrets += [name.encode() for name in (NAMES[3], NAMES[7])]
    assert all(secret in everything(folder / "out") for secret in secrets), "the test would not see them"

    assert forget_in_store(folder / "out", [NAMES[3], NAMES[7]], yes=True) == {"images": 2, "left": 10}

    assert not any(secret in everything(folder / "out") for secret in secrets)
    after = load_vectors(folder / "out")
    kept = [i for i in range(len(names)) if i not in gone]
    np.testing.assert_array_equal(np.asarray(after.values), values[kept])
    assert after.images["image_id"].tolist() == [names[i] for i in kept]
    assert after.spec["n"] == 10
    assert not verify_index(after.folder, np.asarray(after.values))
    unit = normalised(values[kept])
    similarity, rows = open_index(after.folder, after).search(values[kept], 4)
    expected = np.sort(unit @ unit.T, axis=1)[:, ::-1][:, :4]
    np.testing.assert_allclose(similarity, expected, atol=1e-5)
    assert (rows[:, 0] == np.arange(10)).all()


def test_bringing_the_folder_up_to_date_does_not_bring_them_back(folder: Path) -> None:
    forget_in_store(folder / "out", [NAMES[0]], yes=True)
    Image.fromarray(np.full((40, 40, 3), 7, np.uint8)).save(folder / "in" / "new.png")
    embed_folder(folder / "in", "pixels", folder / "out", device="cpu", progress=False)
    assert set(load_vectors(folder / "out").images["image_id"]) == {*NAMES[1:], "new.png"}
    assert NAMES[0].encode() not in everything(folder / "out")


def test_a_file_that_gave_no_vector_is_forgotten_too(folder: Path) -> None:
    assert b"broken.png" in everything(folder / "out")
    assert forget_in_store(folder / "out", ["broken.png"], yes=True) == {"images": 0, "left": 12}
    assert b"broken.png" not in everything(folder / "out")


def test_without_yes_nothing_changes(folder: Path, pellucid: Callable[..., Any]) -> None:
    before = everything(folder / "out")
    done = pellucid("forget", folder / "out", "--image", NAMES[2])
    assert done.returncode == 0, done.stderr
    assert "1 vector(s) would be removed, 11 kept" in done.stdout
    assert everything(folder / "out") == before
    with pytest.raises(UserError, match=r"contains no image `image-99\.png`"):
        forget_in_store(folder / "out", ["image-99.png"], yes=True)
    with pytest.raises(UserError, match="no image would be left"):
        forget_in_store(folder / "out", NAMES, yes=True)


def test_killed_before_the_new_version_counts_a_repeated_call_finishes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(withdrawal, "publish", die)
        with pytest.raises(Killed):
            forget_in_store(folder / "out", [NAMES[5]], yes=True)
    assert len(load_vectors(folder / "out").images) == 12  # whole, as before
    forget_in_store(folder / "out", [NAMES[5]], yes=True)
    assert len(load_vectors(folder / "out").images) == 11
    assert NAMES[5].encode() not in everything(folder / "out")
