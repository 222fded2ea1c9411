"""Stage `embed` of a study: one vector per usable image, masked text, originals, and choosing among the stores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pellucid.cohort.errors import UserError
from pellucid.cohort.images.prepared_images import PreparedImages
from pellucid.cohort.intake import image_squares
from pellucid.cohort.runs.folder import RunFolder
from pellucid.cohort.study import Study, load_study
from pellucid.embed.backbones.backbone import load_backbone
from pellucid.embed.extract import image_sources
from pellucid.embed.extract.stage import embed
from pellucid.embed.search.similar_images import search_image
from pellucid.embed.store.catalogue import choose_vectors, masked_vectors, newest_vectors
from pellucid.embed.store.vectors import load_vectors

ROOT = Path(__file__).parents[3]
TINY = "timm-random:test_vit@64"


@pytest.fixture(scope="module")
def embedded(scanned: tuple[Study, RunFolder]) -> tuple[Study, RunFolder, RunFolder]:
    study, run = scanned
    return study, run, embed(study, run, TINY, device="cpu", progress=False)


def test_each_usable_image_has_its_own_vector(embedded: tuple[Study, RunFolder, RunFolder]) -> None:
    _, run, made = embedded
    vectors = load_vectors(made.path)
    manifest = pd.read_parquet(run.path / "manifest.parquet").set_index("image_id")
    assert set(vectors.images["image_id"]) == set(manifest.index[manifest["status"] == "ok"])
    assert (
        vectors.images["patient"].to_numpy() == manifest.loc[vectors.images["image_id"], "patient"].to_numpy()
    ).all()
    backbone, prepared = load_backbone(TINY, "cpu"), PreparedImages.open(run.path)
    for i in (0, 17, len(vectors.images) - 1):
        alone = backbone(prepared.square(i, 64)[None])[0]
        assert prepared.image_ids[i] == vectors.images["image_id"][i]
        assert np.allclose(vectors.values[i], alone, atol=1e-4)


def test_repeating_says_done_and_newest_is_found(embedded: tuple[Study, RunFolder, RunFolder]) -> None:
    study, run, made = embedded
    assert embed(study, run, TINY, device="cpu", progress=False).done
    assert newest_vectors(study.analysis, run)[TINY].path == made.path
    assert choose_vectors(study.analysis, run).path == made.path
    with pytest.raises(UserError, match=r"no vectors of `pixles`.* available: timm-random:test_vit@64"):
        choose_vectors(study.analysis, run, "pixles")


def test_search_leaves_the_own_patient_out(embedded: tuple[Study, RunFolder, RunFolder]) -> None:
    study, _, made = embedded
    vectors = load_vectors(made.path)
    several = vectors.images.groupby("patient").size()
    patient = several.index[several > 1][0]
    image_id = vectors.images.loc[vectors.images["patient"] == patient, "image_id"].iloc[0]
    hits = search_image(vectors, image_id, 10).hits
    assert len(hits) == 10
    assert patient not in set(hits["patient"])
    assert hits["similarity"].is_monotonic_decreasing
    with_own = search_image(vectors, image_id, 10, same_patient=True).hits
    assert image_id not in set(with_own["image_id"])
    unit = vectors.values / np.linalg.norm(vectors.values, axis=1, keepdims=True)
    row = vectors.images.index[vectors.images["image_id"] == image_id][0]
    order = np.argsort(-(unit @ unit[row]))
    expected = [vectors.images["image_id"][i] for i in order if vectors.images["patient"][i] != patient][:10]
    assert hits["image_id"].tolist() == expected
    by_file = search_image(vectors, str(study.image_root / image_id), 3).hits
    assert by_file["image_id"].iloc[0] == image_id, "the original is nearest to its own prepared copy"
    with pytest.raises(UserError, match="is neither the id of an embedded image nor an existing file"):
        search_image(vectors, "nothing.jpg")


def test_pictures_without_their_text_are_vectors_of_their_own(
    embedded: tuple[Study, RunFolder, RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, run, made = embedded
    masked = replace(study, config=study.config.model_copy(update={"embed": {**study.config.embed, "text": "mask"}}))
    seen: list[tuple[int, ...]] = []

    def without_text(pixels: Any) -> Any:
        seen.append(pixels.shape)
        return pixels if len(seen) % 2 else 255 - pixels

    def in_this_process(*place: Any, frames: Any, mask_text: bool, through_prepared: bool) -> Any:
        return image_squares.squares(*place, frames, mask_text, through_prepared)

    monkeypatch.setattr(image_squares, "without_text", without_text)
    monkeypatch.setattr(image_sources, "squares_apart", in_this_process)
    found = embed(masked, run, TINY, progress=False)
    stored, plain = load_vectors(found.path), load_vectors(made.path)
    assert stored.name == f"{plain.name} without text"
    assert (stored.spec["text"], stored.spec["read_from"]) == ("mask", "prepared")
    assert len(seen) == len(stored.images), "nothing was taken over from vectors of pictures with their text"
    same = np.isclose(stored.values, plain.values, atol=1e-3).all(axis=1)
    assert 0.3 < same.mean() < 0.7, "a picture without text has the vector that it had: it is prepared as the scan did"
    assert set(newest_vectors(study.analysis, run)) == {plain.name}
    assert choose_vectors(study.analysis, run).path == made.path
    other = masked_vectors(study.analysis, run, plain)
    assert other is not None
    assert other.path == found.path
    elsewhere = replace(plain, spec={**plain.spec, "pooling": "gem"})
    assert masked_vectors(study.analysis, run, elsewhere) is None, "another reading is another question"


def test_originals_are_read_where_they_are_asked_for(scanned: tuple[Study, RunFolder], tmp_path: Path) -> None:
    study, run = scanned
    originals = load_study(study.path, [f"analysis={study.analysis}", "embed.source=originals", "embed.batch_size=8"])
    vectors = load_vectors(embed(originals, run, TINY, device="cpu", progress=False).path)
    prepared = load_vectors(embed(study, run, TINY, device="cpu", progress=False).path)
    assert vectors.images[["image_id", "patient", "split"]].equals(prepared.images[["image_id", "patient", "split"]])
    cosine = (vectors.values * prepared.values).sum(1) / (
        np.linalg.norm(vectors.values, axis=1) * np.linalg.norm(prepared.values, axis=1)
    )
    assert cosine.min() > 0.9
    assert not np.array_equal(vectors.values, prepared.values)
    assert vectors.space == prepared.space
