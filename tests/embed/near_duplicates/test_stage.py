"""The same picture turned, mirrored or cropped is found under another patient, and pictures of one kind are left
apart."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from pellucid.cohort.duplicates.copy_limits import MIN_AGREEMENT, MIN_QUESTION
from pellucid.cohort.phantom.head_slices import head_slices
from pellucid.cohort.runs.folder import RunFolder
from pellucid.cohort.scan import scan as run_scan
from pellucid.cohort.study import Study
from pellucid.embed.index import build_index
from pellucid.embed.near_duplicates.picture_match import related
from pellucid.embed.near_duplicates.stage import find_near, near, near_sentences
from pellucid.embed.store.vectors import Vectors, load_vectors, write_vectors

Pixels = NDArray[np.uint8]


def textured(seed: int, height: int = 256, width: int = 320) -> Pixels:
    """A picture of its own: blobs and streaks of several sizes, on a frame and a ruler that all pictures share."""
    rng = np.random.default_rng(seed)
    layers = [
        cv2.resize(rng.normal(size=(n, n, 3)), (width, height), interpolation=cv2.INTER_CUBIC) for n in (6, 20, 60)
    ]
    picture = 120 + 35 * layers[0] + 25 * layers[1] + 12 * layers[2]
    picture = np.clip(picture, 0, 255).astype(np.uint8)
    picture[:20], picture[-20:] = 0, 0
    for x in range(10, width, 16):
        cv2.line(picture, (x, height - 18), (x, height - 8), (255, 255, 255), 2)
    cv2.putText(picture, "MI 1.2 12cm", (10, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1)
    return picture


def turned(picture: Pixels, degrees: float) -> Pixels:
    height, width = picture.shape[:2]
    move = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    return np.asarray(cv2.warpAffine(picture, move, (width, height)), dtype=np.uint8)


COPIES = {
    "the same": lambda p: np.asarray(cv2.imdecode(cv2.imencode(".jpg", p, [1, 50])[1], 1), np.uint8),
    "turned": lambda p: np.rot90(p).copy(),
    "mirrored": lambda p: p[:, ::-1].copy(),
    "cropped": lambda p: p[40:220, 60:290].copy(),
    "mirrored and turned": lambda p: p[::-1].copy(),
    "turned and cropped": lambda p: turned(p, 12)[30:226, 40:280].copy(),
    "scaled": lambda p: cv2.resize(p, None, fx=1.6, fy=1.6, interpolation=cv2.INTER_CUBIC),
}


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_is_known_and_how_it_was_made(how: str) -> None:
    for seed in range(2):
        original = textured(seed)
        match = related(original, COPIES[how](original))
        assert match is not None
        assert match.agreement >= MIN_AGREEMENT
        if how != "scaled":  # both are brought to one size before
            assert match.how == how


@pytest.mark.long
def test_pictures_of_one_device_are_not_one_picture() -> None:
    """Frame, ruler and lettering are the same in all of them."""
    for seed in range(6):
        match = related(textured(seed), textured(seed + 50))
        assert match is None or match.agreement < MIN_QUESTION
    flat = np.full((200, 200, 3), 7, np.uint8)
    assert related(flat, flat) is None, "what shows nothing is no copy"


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Vectors, dict[str, Pixels]]:
    """40 patients of one picture each, two of whom hold a turned and a cropped copy of another's; 1 is unlike all."""
    folder = tmp_path_factory.mktemp("near")
    rng = np.random.default_rng(0)
    pictures = {f"i{k}": textured(k) for k in range(40)}
    values = (rng.normal(size=(40, 16)) * 0.3 + 1).astype(np.float32)
    for copy, original, how in ((31, 3, "turned"), (37, 8, "cropped")):
        pictures[f"i{copy}"] = COPIES[how](pictures[f"i{original}"])
        values[copy] = values[original] + 0.05 * rng.normal(size=16)
    values[20] = values[21] + 0.01  # near by its vector, but another picture
    values[12] = -values[12]
    images = pd.DataFrame({"image_id": list(pictures), "patient": [f"P{k}" for k in range(40)]})
    images["split"] = ["test" if k > 30 else "train" for k in range(40)]
    write_vectors(folder, values, images, {"backbone": "pixels", "location": "pixels", "fingerprint": "x"})
    vectors = load_vectors(folder)
    build_index(folder, vectors.values, vectors.space)
    return vectors, pictures


@pytest.mark.long
def test_planted_copies_are_found_and_nothing_else(planted: tuple[Vectors, dict[str, Pixels]]) -> None:
    vectors, pictures = planted
    found = find_near(vectors, pictures.__getitem__, patience=6)
    told = {(row.image_id, row.other_image_id): row.how for row in found.pairs.itertuples()}
    assert told == {("i3", "i31"): "turned", ("i8", "i37"): "cropped"}
    assert found.pairs["group"].nunique() == 2
    assert (found.pairs["ratio"] < 0.5).all()
    assert found.verified < 40, "from the most suspicious downwards, and no farther than needed"
    assert found.unusual["image_id"].iloc[0] == "i12"
    assert found.unusual["distance"].is_monotonic_decreasing
    said = near_sentences(found)
    assert said[0].startswith("2 pair(s) of images in 2 group(s) show the same picture under different patients")
    assert "2 of these pairs have images in different splits" in said[1]
    assert not any(name in sentence for sentence in said for name in pictures if f"{name} " in sentence)


@pytest.mark.long
def test_what_the_scan_knows_is_not_told_again(planted: tuple[Vectors, dict[str, Pixels]]) -> None:
    vectors, pictures = planted
    known = np.array(["D1" if k in (3, 31) else "" for k in range(40)], dtype=object)
    found = find_near(vectors, pictures.__getitem__, known=known, patience=6)
    assert found.pairs["other_image_id"].tolist() == ["i37"]


@pytest.mark.long
def test_one_patient_s_own_copies_are_nobody_s_leak(planted: tuple[Vectors, dict[str, Pixels]]) -> None:
    vectors, pictures = planted
    mine = vectors.images.assign(patient=["P3" if k in (3, 31) else f"P{k}" for k in range(40)])
    found = find_near(Vectors(vectors.values, mine, vectors.spec, vectors.folder), pictures.__getitem__, patience=6)
    assert found.pairs["image_id"].tolist() == ["i8"]


@pytest.mark.long
def test_heads_at_one_level_are_not_copies(tmp_path: Path) -> None:
    """Keypoints register slices of different patients; two of them are another patient's too, turned and cropped."""
    drawn = list(head_slices(30, 1, size_px=224))
    pictures = {f"i{one.patient}": one.pixels for one in drawn}
    small = [cv2.resize(p[:, :, 0], (16, 16), interpolation=cv2.INTER_AREA).ravel() for p in pictures.values()]
    values = np.asarray(small, dtype=np.float32) / 255
    for copy, original, how in (("i30", 3, "turned"), ("i31", 8, "cropped")):
        pictures[copy] = COPIES[how](pictures[f"i{original}"])
        values = np.vstack([values, values[original] + 0.001])
    images = pd.DataFrame({"image_id": list(pictures), "patient": [f"P{k}" for k in range(32)], "split": "train"})
    write_vectors(tmp_path, values, images, {"backbone": "pixels", "location": "pixels", "fingerprint": "x"})
    vectors = load_vectors(tmp_path)
    build_index(tmp_path, vectors.values, vectors.space)
    found = find_near(vectors, pictures.__getitem__, patience=20)
    told = list(zip(found.pairs["image_id"], found.pairs["other_image_id"], strict=True))
    assert sorted(told) == [("i3", "i30"), ("i8", "i31")]
    assert found.verified >= 20
    assert found.limits.usual > 0.6, "the heads are alike"


def test_a_study_s_run_names_patients_by_research_id(scanned: tuple[Study, RunFolder], tmp_path: Path) -> None:
    from pellucid.embed.extract.stage import embed

    study, run = scanned
    assert run_scan(study, progress=False).path == run.path
    vectors_run = embed(study, run, "pixels", progress=False)
    made = near(study, vectors_run, run, progress=False)
    content = made.read_json("near.json")
    assert content["schema"] == "pellucid.near/1"
    assert content["verified"] > 0
    assert content["questions"] == len(pd.read_parquet(made.path / "questions.parquet")) == len(content["to_ask"])
    ids = pd.read_parquet(run.path / "manifest.parquet")["image_id"]
    assert not any(image_id in str(content) for image_id in ids), "reports name images by research id"
    assert len(pd.read_parquet(made.path / "unusual.parquet")) > 0
    assert near(study, vectors_run, run, progress=False).done
