"""A store grows and shrinks with its folder: only new content is computed, and a kill leaves the old store or the
new."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from pellucid.cohort.errors import UserError
from pellucid.cohort.images.prepared_images import PreparedImages
from pellucid.cohort.runs.folder import RunFolder
from pellucid.cohort.scan import scan
from pellucid.cohort.study import Study, load_study
from pellucid.embed.backbones.backbone import Backbone
from pellucid.embed.extract import job, plain_folder
from pellucid.embed.extract.plain_folder import embed_folder
from pellucid.embed.extract.reused_vectors import each_once
from pellucid.embed.extract.stage import embed
from pellucid.embed.index import open_index
from pellucid.embed.store import snapshots
from pellucid.embed.store.vectors import Vectors, load_vectors


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each call of a backbone was given."""
    counts: list[int] = []
    read = Backbone.read

    def counting(self: Backbone, pixels: NDArray[np.uint8], **how: Any) -> Any:
        counts.append(len(pixels))
        return read(self, pixels, **how)

    monkeypatch.setattr(Backbone, "read", counting)
    return counts


def write(path: Path, seed: int) -> None:
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 255, (40, 40, 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for k in range(12):
        write(folder / f"i{k:02d}.png", k)
    pages = [Image.fromarray(np.full((40, 40, 3), 60 * k, np.uint8)) for k in range(3)]
    pages[0].save(folder / "pages.tif", save_all=True, append_images=pages[1:])
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    return folder


def made(folder: Path, out: Path) -> Vectors:
    embed_folder(folder, "pixels", out, progress=False)
    return load_vectors(out)


def is_what_a_fresh_one_would_be(vectors: Vectors, folder: Path, fresh: Path) -> None:
    expected = made(folder, fresh)
    assert vectors.images.equals(expected.images)
    assert np.array_equal(vectors.values, expected.values)
    queries = np.asarray(expected.values[:5])
    for one, other in zip(
        open_index(vectors.folder, vectors).search(queries, 4),
        open_index(fresh, expected).search(queries, 4),
        strict=True,
    ):
        assert np.array_equal(one, other)
    named = [{k: f[k] for k in ("image_id", "reason")} for f in vectors.spec["failed"]]
    assert named == [{k: f[k] for k in ("image_id", "reason")} for f in expected.spec["failed"]]


def test_only_new_content_is_computed(folder: Path, tmp_path: Path, computed: list[int]) -> None:
    out = tmp_path / "out"
    assert len(made(folder, out).values) == 15
    assert sum(computed) == 15
    computed.clear()
    write(folder / "new.png", 100)
    write(folder / "i03.png", 103)  # another picture under an old name
    shutil.copy(folder / "i05.png", folder / "again.png")  # an old one under a second name
    (folder / "i07.png").rename(folder / "renamed.png")
    (folder / "i01.png").unlink()
    vectors = made(folder, out)
    assert sum(computed) == 2, "the new picture and the changed one"
    assert vectors.spec["taken_over"] == 14
    ids = list(vectors.images["image_id"])
    assert "i01.png" not in ids
    assert ids == sorted(ids)
    is_what_a_fresh_one_would_be(vectors, folder, tmp_path / "fresh")
    computed.clear()
    assert made(folder, out).spec == vectors.spec
    assert not computed, "nothing has changed"


def test_images_only_removed_need_no_computing(folder: Path, tmp_path: Path, computed: list[int]) -> None:
    made(folder, tmp_path / "out")
    computed.clear()
    for name in ("i00.png", "pages.tif", "broken.png"):
        (folder / name).unlink()
    is_what_a_fresh_one_would_be(made(folder, tmp_path / "out"), folder, tmp_path / "fresh")
    assert sum(computed) == 11, "all of them by the fresh one"


def test_a_file_that_could_not_be_read_is_tried_again_once_it_is_mended(folder: Path, tmp_path: Path) -> None:
    assert made(folder, tmp_path / "out").spec["failed"][0]["image_id"] == "broken.png"
    write(folder / "broken.png", 50)
    vectors = made(folder, tmp_path / "out")
    assert vectors.spec["failed"] == []
    is_what_a_fresh_one_would_be(vectors, folder, tmp_path / "fresh")


def test_another_folder_or_backbone_is_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = made(folder, out).images
    other = tmp_path / "other"
    other.mkdir()
    write(other / "x.png", 1000)
    with pytest.raises(UserError, match="contains vectors of another backbone or folder; choose another --out"):
        made(other, out)
    with pytest.raises(UserError, match="contains vectors of another backbone or folder"):
        embed_folder(folder, "timm-random:test_vit@32", out, progress=False)
    assert load_vectors(out).images.equals(before)


class Killed(BaseException):
    pass


def dying_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """The process ends before the step-th of the operations by which a version is published."""
    count = 0
    for name in ("link", "sync_path", "tidy", "new_version"):
        original = getattr(snapshots, name)

        def call(*arguments: Any, original: Callable[..., Any] = original) -> Any:
            nonlocal count
            count += 1
            if count == step:
                raise Killed
            return original(*arguments)

        for module in (snapshots, plain_folder):
            if hasattr(module, name):
                patch.setattr(module, name, call)


@pytest.mark.long
@pytest.mark.parametrize("before", ["versions", "plain", "nothing"])
def test_a_kill_at_any_step_leaves_the_old_store_or_the_new(before: str, folder: Path, tmp_path: Path) -> None:
    old = made(folder, tmp_path / "old")
    write(folder / "new.png", 100)
    new = made(folder, tmp_path / "new")
    start, out = tmp_path / "start", tmp_path / "out"
    if before == "versions":
        shutil.copytree(tmp_path / "old", start, symlinks=True)
    else:
        start.mkdir()
        for name in snapshots.FILES if before == "plain" else ():
            if (tmp_path / "old" / name).exists():
                shutil.copy(tmp_path / "old" / name, start)
    found = []
    for step in range(1, 100):
        shutil.copytree(start, out, symlinks=True)
        with pytest.MonkeyPatch.context() as patch:
            dying_at(step, patch)
            died = False
            try:
                made(folder, out)
            except Killed:
                died = True
        try:
            left = load_vectors(out)
        except UserError:
            assert before == "nothing"
            assert not (out / "spec.json").exists()
        else:
            expected = new if len(left.values) == len(new.values) else old
            found.append("new" if expected is new else "old")
            assert np.array_equal(left.values, expected.values)
            assert left.images.equals(expected.images)
            assert open_index(left.folder, left).search(np.asarray(left.values[3:4]), 1)[1].tolist() == [[3]]
            plainly = np.load(out / "vectors.npy"), len(pd.read_parquet(out / "images.parquet"))
            assert len(plainly[0]) == plainly[1] == len(expected.values), "under the plain names too"
        assert np.array_equal(made(folder, out).values, new.values), "and the next call ends it"
        assert {p.name for p in (out / ".versions").iterdir()} == {load_vectors(out).folder.name}, (
            "nothing is left over"
        )
        shutil.rmtree(out)
        if not died:
            break
    assert step > 8
    assert found == sorted(found, reverse=True), "once new, always new"
    assert "new" in found
    assert (before == "nothing") == ("old" not in found)


def test_a_study_takes_over_what_an_earlier_run_has(
    scanned: tuple[Study, RunFolder], own_phantom: Path, tmp_path: Path, computed: list[int]
) -> None:
    analysis = tmp_path / "analysis"
    study = load_study(own_phantom, [f"analysis={analysis}"])
    first = load_vectors(embed(study, scan(study, progress=False), "pixels", progress=False).path)
    assert sum(computed) == len(first.values)
    computed.clear()
    changed = study.image_root / str(first.images["image_id"][0])
    picture = cv2.imread(str(changed))
    cv2.imwrite(str(changed), 255 - picture)
    again = load_vectors(embed(study, scan(study, progress=False), "pixels", progress=False).path)
    assert sum(computed) == 1
    fresh_study = load_study(own_phantom, [f"analysis={tmp_path / 'fresh'}"])
    fresh = load_vectors(embed(fresh_study, scan(fresh_study, progress=False), "pixels", progress=False).path)
    assert again.images.equals(fresh.images)
    assert np.array_equal(again.values, fresh.values)
    assert not np.array_equal(again.values[0], first.values[0])
    computed.clear()
    originals = load_study(own_phantom, [f"analysis={analysis}", "embed.source=originals"])
    run = embed(originals, scan(originals, progress=False), "pixels", progress=False)
    assert sum(computed) == len(first.values), "an original is another content than its prepared copy"
    assert load_vectors(run.path).spec["read_from"] == "originals"


def test_killed_after_the_last_file_nothing_is_computed_again(
    scanned: tuple[Study, RunFolder], tmp_path: Path, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = load_study(scanned[0].path, [f"analysis={tmp_path}"])
    run = scan(study, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(job, "clear_parts", lambda _: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            embed(study, run, "pixels", progress=False)
    n = sum(computed)
    vectors = load_vectors(embed(study, run, "pixels", progress=False).path)
    assert len(vectors.values) == sum(computed) == n
    assert not (vectors.folder / "parts").exists()


DAMAGED_COPY = "the prepared copy of `.*` is damaged: restore the file .* `pellucid scan "


def test_a_damaged_prepared_copy_stops_and_is_not_taken_for_done(own_phantom: Path, tmp_path: Path) -> None:
    study = load_study(own_phantom, [f"analysis={tmp_path / 'analysis'}"])
    run = scan(study, progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            PreparedImages,
            "square",
            lambda *_: (_ for _ in ()).throw(ValueError("not a JPEG")),
        )
        with pytest.raises(UserError, match=DAMAGED_COPY):
            embed(study, run, "pixels", progress=False)
    whole = PreparedImages.square

    def first_is_damaged(self: PreparedImages, i: int, size_px: int) -> Any:
        if i == 0:
            raise ValueError("not a JPEG")
        return whole(self, i, size_px)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PreparedImages, "square", first_is_damaged)
        for _ in range(2):
            with pytest.raises(UserError, match=DAMAGED_COPY):
                embed(study, run, "pixels", progress=False)
    assert not list((study.analysis / "embed").glob("pixels*"))
    assert not load_vectors(embed(study, run, "pixels", progress=False).path).spec["failed"], (
        "whole again: all are read"
    )


def test_a_row_moves_to_one_place_only() -> None:
    assert each_once(np.array([4, -1, 2, 4, -1, 4])).tolist() == [4, -1, 2, -1, -1, -1]
