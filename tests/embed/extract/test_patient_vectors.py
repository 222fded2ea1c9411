"""One vector a patient: the formulas, what no patient's vector may depend on, and the run that holds them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pellucid.embed.extract.patient_vectors as module
from pellucid.cohort.errors import UserError
from pellucid.cohort.runs.checksums import write_sums
from pellucid.cohort.runs.folder import RunFolder
from pellucid.cohort.study import Study, Variable, load_study
from pellucid.embed.backbones.embedding_space import same_space
from pellucid.embed.extract.patient_vectors import PatientVector, embed_patients, patient_table, patient_vectors
from pellucid.embed.extract.stage import embed
from pellucid.embed.index import open_index
from pellucid.embed.store.catalogue import choose_patient_vectors, newest_vectors
from pellucid.embed.store.vectors import load_vectors

HOWS: list[PatientVector] = ["mean", "medoid", "weighted"]


def cohort(sizes: list[int], dim: int = 6, seed: int = 0) -> tuple[np.ndarray, pd.DataFrame]:
    """Vectors of patients with so many images each, in a shuffled order."""
    rng = np.random.default_rng(seed)
    owner = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    values = (rng.normal(size=(len(sizes), dim))[owner] + 0.7 * rng.normal(size=(len(owner), dim))).astype(np.float32)
    images = pd.DataFrame(
        {"image_id": [f"i{k}" for k in range(len(owner))], "patient": [f"P{p:03d}" for p in owner],
         "split": ["test" if p % 3 == 0 else "train" for p in owner]}
    )  # fmt: skip
    return values, images


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.mark.long
@given(st.lists(st.integers(1, 7), min_size=1, max_size=12), st.integers(0, 1000), st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_formulas_by_brute_force(sizes: list[int], seed: int, rows_held: int) -> None:
    values, images = cohort(sizes, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_ROWS", rows_held)  # however few rows are held at once
        found = {how: patient_vectors(values, images, how) for how in HOWS}
    for how, (table, made) in found.items():
        assert table["patient"].tolist() == sorted(set(images["patient"]))
        assert made.dtype == np.float32
        assert np.allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5), "all of one length"
        for row, patient in enumerate(table["patient"]):
            own = np.flatnonzero(images["patient"] == patient)
            u = unit(values[own].astype(np.float64))
            cosines = u @ u.T
            n = len(own)
            if how == "mean":
                expected = u.mean(0)
            elif how == "medoid":
                expected = u[np.argmax(cosines.sum(1) > cosines.sum(1).max() - 1e-9)]  # of two equal ones the first
                assert table["image_id"][row] in set(images["image_id"].iloc[own])
            else:
                others = (cosines.sum(1) - 1) / max(n - 1, 1)
                weights = np.maximum(others, 0) if n > 2 and (others > 0).any() else np.ones(n)
                expected = weights @ u
            assert np.allclose(made[row], unit(expected), atol=1e-4), (how, n)
            assert table["n_images"][row] == n
            assert table["agreement"][row] == pytest.approx(np.linalg.norm(u.mean(0)), abs=1e-6)
            nearest = images["image_id"].iloc[own[np.argmax(u @ unit(expected))]]
            assert table["image_id"][row] == nearest or (n > 1 and np.ptp(np.sort(u @ unit(expected))[-2:]) < 1e-5)
            assert table["split"][row] == images["split"].iloc[own[0]]


@pytest.mark.parametrize("how", HOWS)
def test_neither_order_nor_length_nor_other_patients_count(how: PatientVector) -> None:
    values, images = cohort([3, 1, 5, 4])
    _, made = patient_vectors(values, images, how)
    order = np.random.default_rng(1).permutation(len(values))
    table, shuffled = patient_vectors(values[order], images.iloc[order].reset_index(drop=True), how)
    assert np.allclose(made, shuffled, atol=1e-6)
    lengths = np.random.default_rng(2).uniform(0.1, 30, (len(values), 1)).astype(np.float32)
    assert np.allclose(made, patient_vectors(values * lengths, images, how)[1], atol=1e-5)
    one = images["patient"] == "P002"
    alone, vector = patient_vectors(values[one.to_numpy()], images[one].reset_index(drop=True), how)
    assert np.allclose(vector[0], made[2], atol=1e-6)
    assert alone["image_id"][0] == table["image_id"][2]


def test_an_image_unlike_the_others_counts_least_where_it_is_weighed() -> None:
    """Four images of one thing and one of something else: the mean is drawn aside, the other two hardly."""
    rng = np.random.default_rng(3)
    thing, something = unit(rng.normal(size=(2, 40)))
    values = np.vstack([thing + 0.03 * rng.normal(size=(4, 40)), something]).astype(np.float32)
    images = pd.DataFrame({"image_id": list("abcde"), "patient": "P", "split": "train"})
    towards = {how: float(patient_vectors(values, images, how)[1][0] @ thing) for how in HOWS}
    assert towards["mean"] < towards["weighted"] - 0.01
    assert towards["medoid"] > 0.97
    assert towards["weighted"] > 0.97
    assert patient_vectors(values, images, "mean")[0]["image_id"][0] in set("abcd")


def test_how_many_images_there_were_is_not_in_the_length() -> None:
    """Without the last scaling the length of a mean would tell a linear probe who was imaged often."""
    values, images = cohort([1] * 30 + [6] * 30, dim=16, seed=5)
    table, made = patient_vectors(values, images, "mean")
    lengths = np.linalg.norm(made, axis=1)
    assert np.ptp(lengths) < 1e-5
    assert table.groupby("n_images")["agreement"].mean().is_monotonic_decreasing, "so it would have been"


def test_vectors_that_cancel_out_are_refused() -> None:
    values = np.array([[1, 0], [-1, 0], [1, 1]], np.float32)
    images = pd.DataFrame({"image_id": list("abc"), "patient": ["P1", "P1", "P2"], "split": "train"})
    with pytest.raises(UserError, match="patient P1: the vectors of the patient's images cancel out"):
        patient_vectors(values, images, "mean")
    assert patient_vectors(values, images, "medoid")[0]["image_id"].tolist() == ["a", "c"]


@pytest.fixture(scope="module")
def runs(
    scanned: tuple[Study, RunFolder], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Study, RunFolder, RunFolder]:
    """A study of its own, with the vectors of its images."""
    study, scan = scanned
    analysis = tmp_path_factory.mktemp("patients") / "analysis"
    shutil.copytree(study.analysis, analysis)
    own = load_study(study.path, [f"analysis={analysis}"])
    scan = RunFolder(analysis / "scan" / scan.path.name, scan.stage, scan.name, scan.key, True, scan.record)
    return own, scan, embed(own, scan, "pixels", device="cpu", progress=False)


def test_a_run_of_patients_is_derived_from_a_run_of_images(runs: tuple[Study, RunFolder, RunFolder]) -> None:
    study, scan, images_run = runs
    run = embed_patients(study, images_run, "weighted")
    images, patients = load_vectors(images_run.path), load_vectors(run.path)
    assert [parent["key"] for parent in run.record["parents"]] == [images_run.key]
    assert patients.images["patient"].is_unique
    assert set(patients.images["patient"]) == set(images.images["patient"])
    assert patients.images["n_images"].sum() == len(images.images)
    assert (patients.spec["unit"], patients.spec["per_patient"], patients.name) == (
        "patient", "weighted", "pixels per patient (weighted)",
    )  # fmt: skip
    assert open_index(run.path, patients) is not None
    assert embed_patients(study, images_run, "weighted").done
    with pytest.raises(UserError, match=r"the unit of one vector \(image or patient\) \(image and patient\)"):
        same_space(images.spec, patients.spec)
    with pytest.raises(UserError, match="already contains patient vectors"):
        embed_patients(study, run, "mean")
    with pytest.raises(UserError, match="choose mean, medoid, weighted"):
        embed_patients(study, images_run, "attention")  # type: ignore[arg-type]
    assert newest_vectors(study.analysis, scan)["pixels"].path == images_run.path, (
        "the images' vectors stay the images'"
    )
    assert not any("per patient" in name for name in newest_vectors(study.analysis, scan))
    assert choose_patient_vectors(study.analysis, images_run, "weighted").path == run.path
    with pytest.raises(UserError, match="no patient vectors with rule `medoid`"):
        choose_patient_vectors(study.analysis, images_run, "medoid")


def test_variables_by_patient(runs: tuple[Study, RunFolder, RunFolder]) -> None:
    manifest = pd.DataFrame(
        {
            "patient": ["A", "A", "B", "B", "C", "D"], "status": ["ok"] * 5 + ["unreadable"],
            "grade": [1.0, np.nan, 2.0, 3.0, np.nan, 9.0], "device": ["x", "x", "x", "y", "y", "y"],
        }
    )  # fmt: skip
    variables = [Variable("grade", "clinical", "ordinal"), Variable("device", "acquisition", "categorical")]
    table, said = patient_table(manifest, pd.Series(["C", "A", "B"]), variables)
    assert table["patient"].tolist() == ["C", "A", "B"]
    assert table["grade"].fillna(-1).tolist() == [-1, 1, -1], "a value that all agree on, else none"
    assert table["device"].fillna("").tolist() == ["y", "x", ""]
    assert said[0] == (
        "grade: images of the same patient differ for 1 of 3 patients; their value is treated as missing"
    )
    with pytest.raises(UserError, match="contain patient D, who is not in the scan"):
        patient_table(manifest, pd.Series(["D"]), variables)
    study, scan, images_run = runs
    vectors = load_vectors(embed_patients(study, images_run, "mean").path)
    full, _ = patient_table(pd.read_parquet(scan.path / "manifest.parquet"), vectors.images["patient"], study.variables)
    assert len(full) == len(vectors.values)
    assert {v.name for v in study.variables} <= set(full.columns)


def test_every_image_its_own_patient_is_refused(runs: tuple[Study, RunFolder, RunFolder], tmp_path: Path) -> None:
    study, _, images_run = runs
    copy = tmp_path / images_run.path.name
    shutil.copytree(images_run.path, copy)
    images = pd.read_parquet(copy / "images.parquet").assign(patient=lambda f: f["image_id"])
    images.to_parquet(copy / "images.parquet", index=False)
    write_sums(copy)
    alone = RunFolder(copy, "embed", images_run.name, images_run.key, True, images_run.record)
    with pytest.raises(UserError, match="no patient has two images"):
        embed_patients(study, alone, "mean")
