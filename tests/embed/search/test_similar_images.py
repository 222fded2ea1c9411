"""Search by id, file, vector and region; the own patient; one image per patient; messages for invalid queries."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from pellucid.cohort.errors import UserError
from pellucid.embed.extract.in_memory import embed_array
from pellucid.embed.extract.plain_folder import embed_folder
from pellucid.embed.index import build_index
from pellucid.embed.index.knn_graph import normalised
from pellucid.embed.search.similar_images import cut_out, parse_region, search, search_image
from pellucid.embed.store.vectors import Vectors, load_vectors, write_vectors

N = 240


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Vectors:
    folder = tmp_path_factory.mktemp("store")
    rng = np.random.default_rng(0)
    people = rng.normal(size=(60, 12)) + 1
    values = (np.repeat(people, 4, axis=0) + 0.2 * rng.normal(size=(N, 12))).astype(np.float32)
    patients = [f"P{i // 4:03d}" for i in range(N)]
    images = pd.DataFrame({"image_id": [f"i{i}.png" for i in range(N)], "patient": patients, "split": "train"})
    write_vectors(folder, values, images, {"backbone": "pixels", "location": "pixels", "fingerprint": "x"})
    stored = load_vectors(folder)
    build_index(folder, stored.values, stored.space, patients=images["patient"].to_numpy())
    return stored


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    i = np.arange(N)
    age = np.where(i % 10 == 0, np.nan, 20.0 + i % 60)
    device = np.array(["A", "B", "C"], dtype=object)[i % 3]
    frame = pd.DataFrame(
        {"image_id": [f"i{k}.png" for k in i], "device": device, "age": age, "grade": i % 4, "urgent": i % 2 == 0}
    )
    return frame.sample(frac=1, random_state=0)  # a manifest may stand in another order


def test_hits_are_brute_force_among_those_allowed(vectors: Vectors, table: pd.DataFrame) -> None:
    answer = search_image(vectors, "i9.png", 5, table=table, where=["device=A|B", "age>=30"], columns=["device", "age"])
    known = table.set_index("image_id").loc[vectors.images["image_id"]]
    allowed = known["device"].isin(["A", "B"]).to_numpy() & (known["age"] >= 30).to_numpy()
    allowed &= (vectors.images["patient"] != vectors.images["patient"][9]).to_numpy()
    unit = normalised(np.asarray(vectors.values))
    order = [i for i in np.argsort(-(unit @ unit[9])) if allowed[i]][:5]
    hits = answer.hits
    assert hits["image_id"].tolist() == [f"i{i}.png" for i in order]
    assert hits["rank"].tolist() == [1, 2, 3, 4, 5]
    assert np.allclose(hits["similarity"], (unit @ unit[9])[order], atol=1e-6)
    assert np.allclose(hits["distance"], 1 - hits["similarity"])
    assert hits["device"].tolist() == known["device"].iloc[order].tolist()
    assert hits["age"].tolist() == known["age"].iloc[order].tolist()
    assert answer.among == (int((known["device"].isin(["A", "B"]) & (known["age"] >= 30)).sum()), N)
    assert answer.sentences()[0].startswith(f"searched {answer.among[0]} of 240 images")


def test_the_own_patient_is_passed_over_unless_asked_for(vectors: Vectors) -> None:
    hits = search_image(vectors, "i8.png", 10).hits
    assert "P002" not in set(hits["patient"])
    with_own = search_image(vectors, "i8.png", 10, same_patient=True).hits
    assert with_own["patient"].tolist()[:3] == ["P002"] * 3
    assert "i8.png" not in set(with_own["image_id"])
    assert with_own["rank"].tolist() == list(range(1, 11))
    one_each = search_image(vectors, "i8.png", 10, one_per_patient=True).hits
    assert len(one_each) == one_each["patient"].nunique() == 10
    assert "P002" not in set(one_each["patient"])


def test_many_queries_are_each_as_if_alone(vectors: Vectors, tmp_path: Path) -> None:
    rows = [3, 50, 51, 200]
    patients = [str(vectors.images["patient"][r]) for r in rows]
    many = search(vectors, np.asarray(vectors.values[rows]), 6, exclude_patient=patients)
    for number, row in enumerate(rows):
        alone = search_image(vectors, f"i{row}.png", 6)
        mine = many.hits[many.hits["query"] == number]
        assert mine["image_id"].tolist() == alone.hits["image_id"].tolist()
        assert many.queries["percentile"][number] == pytest.approx(alone.queries["percentile"][0])
    np.save(tmp_path / "v.npy", vectors.values[3] * 7)
    by_vector = search_image(vectors, str(tmp_path / "v.npy"), 1).hits
    assert by_vector["image_id"].tolist() == ["i3.png"], "a bare vector belongs to no patient"
    assert by_vector["similarity"][0] == pytest.approx(1)


def test_how_unusual_a_query_is(vectors: Vectors) -> None:
    inside = search_image(vectors, "i8.png", 3)
    assert 0 <= inside.queries["percentile"][0] <= 100
    far = search(vectors, -np.ones(12, np.float32), 3)
    assert far.queries["percentile"][0] == 100
    assert "is it the same kind of image?" in far.sentences()[0]
    percentiles = search(
        vectors, np.asarray(vectors.values), 1, exclude_patient=vectors.images["patient"].tolist()
    ).queries["percentile"]
    assert abs(percentiles.median() - 50) < 5, "of the cohort's own images half are more usual than the middle one"


def test_years_with_gaps_are_whole_numbers(vectors: Vectors) -> None:
    year = np.where(np.arange(N) % 2, 2024.0, np.nan)
    manifest = pd.DataFrame({"image_id": vectors.images["image_id"], "year": year, "dose": year + 0.5})
    hits = search(vectors, np.asarray(vectors.values[0]), 50, table=manifest, columns=["year", "dose"]).hits
    assert {str(value) for value in hits["year"]} == {"2024", "<NA>"}
    assert set(hits["dose"].dropna()) == {2024.5}


def test_what_cannot_be_searched_is_told(vectors: Vectors, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"is neither the id of an embedded image nor an existing file; did you mean `i23\.png`"
    ):
        search_image(vectors, "i23.pn")
    with pytest.raises(UserError, match=r"has 3 numbers, but vectors of pixels have 12"):
        search(vectors, np.zeros(3, np.float32))
    with pytest.raises(UserError, match="NaN or infinite"):
        search(vectors, np.full(12, np.inf, np.float32))
    with pytest.raises(UserError, match="there is no patient `P999`"):
        search(vectors, np.zeros(12, np.float32), exclude_patient="P999")
    (tmp_path / "v.npy").write_bytes(b"no")
    with pytest.raises(UserError, match=r"is not a \.npy file of numbers"):
        search_image(vectors, str(tmp_path / "v.npy"))
    with pytest.raises(UserError, match="give the file instead of the id"):
        search_image(vectors, "i3.png", region=(0, 0, 32, 32))


def test_a_region_is_cut_out_and_found_where_it_came_from(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, lesions = tmp_path / "images", []
    images.mkdir()
    for i in range(6):
        lesion = cv2.resize(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8), (96, 96), interpolation=cv2.INTER_CUBIC)
        lesions.append(lesion)
        cv2.imwrite(str(images / f"lesion{i}.png"), lesion)
    whole = np.full((300, 400, 3), 90, np.uint8)
    whole[150:246, 200:296] = lesions[4]
    cv2.imwrite(str(tmp_path / "whole.png"), whole)
    vectors = load_vectors(embed_folder(images, "pixels", tmp_path / "out", progress=False)[0])
    found = search_image(vectors, str(tmp_path / "whole.png"), 1, region=(200, 150, 96, 96)).hits
    assert found["image_id"].tolist() == ["lesion4.png"]
    assert found["similarity"][0] == pytest.approx(1, abs=1e-5)
    assert search_image(vectors, str(tmp_path / "whole.png"), 1).hits["similarity"][0] < 0.999
    with pytest.raises(UserError, match=r"is not inside the image of 400 × 300 pixels"):
        search_image(vectors, str(tmp_path / "whole.png"), 1, region=(350, 150, 96, 96))
    with pytest.raises(UserError, match="is too small: at least 16"):
        cut_out(whole, (0, 0, 200, 8), "x")
    with pytest.raises(UserError, match="write left,top,width,height"):
        parse_region("1,2,3")
    assert parse_region("1, 2,30,40") == (1, 2, 30, 40)


@pytest.mark.long
def test_a_file_that_crashes_its_decoder_costs_a_sentence_not_the_process(
    tmp_path: Path, crashing_reader: None
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a.png", "b.png", "bad.png"):
        cv2.imwrite(str(images / name), np.random.default_rng(len(name)).integers(0, 255, (40, 40, 3), dtype=np.uint8))
    with (images / "bad.png").open("ab") as handle:
        handle.write(b"crash")
    out, failed = embed_folder(images, "pixels", tmp_path / "out", progress=False)
    assert failed == [("bad.png", "its decoder crashed or ran out of memory")]
    vectors = load_vectors(out)
    with pytest.raises(UserError, match=r"bad\.png: its decoder crashed or ran out of memory"):
        search_image(vectors, str(images / "bad.png"))
    with pytest.raises(UserError, match=r"1 of 2 files could not be read:\n  .*bad\.png: its decoder crashed"):
        embed_array([images / "a.png", images / "bad.png"], "pixels")
    assert search_image(vectors, str(images / "a.png"), 1).hits["image_id"].tolist() == ["a.png"]
