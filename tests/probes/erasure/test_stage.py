"""Vectors without a factor as a run of their own: what they no longer tell, who finds them, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from pellucid.cohort.errors import UserError
from pellucid.cohort.phantom.population import PhantomConfig, write_phantom
from pellucid.cohort.runs.folder import RunFolder
from pellucid.cohort.scan import scan
from pellucid.cohort.statistics.patient_resampling import Patients
from pellucid.cohort.statistics.weighted_ranks import auroc
from pellucid.cohort.study import Study, load_study
from pellucid.embed.backbones.embedding_space import same_space
from pellucid.embed.extract.stage import embed
from pellucid.embed.index import open_index
from pellucid.embed.store.catalogue import choose_vectors, newest_vectors
from pellucid.embed.store.vectors import load_vectors
from pellucid.probes.erasure.stage import take_out
from pellucid.probes.estimators.ridge import fitted_probe
from pellucid.probes.stage import audit_study, rows_of
from pellucid.withdrawal import forget_patients


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, RunFolder, RunFolder]:
    folder = tmp_path_factory.mktemp("remedied") / "study"
    write_phantom(folder, PhantomConfig(patients=64, images_per_patient=(1, 2), width_px=96, height_px=80))
    study = load_study(folder)
    found = scan(study, progress=False)
    return study, found, embed(study, found, "pixels", device="cpu", progress=False)


def told(values: np.ndarray, levels: np.ndarray, patients: Patients) -> float:
    """How well a linear probe tells the first level, of those who taught it."""
    target = (levels == np.unique(levels)[0]).astype(float)[None]
    slope, offset, _ = fitted_probe(np.asarray(values, dtype=np.float64), patients.weights, target)
    scores = slope @ np.asarray(values, dtype=np.float64).T + offset[:, None]
    return float(auroc(scores, target > 0.5, patients.weights, np.zeros(len(levels), dtype=np.int64))[0])


@pytest.mark.long
def test_the_factor_cannot_be_told_of_the_training_patients_any_more(
    embedded: tuple[Study, RunFolder, RunFolder],
) -> None:
    study, found, made = embedded
    before = load_vectors(made.path)
    table = rows_of(found, before.images)
    run = take_out(study, found, made, table, "device")
    after = load_vectors(run.path)
    train = ((before.images["split"] == "train") & table["device"].notna()).to_numpy()
    patients = Patients.from_ids(table["patient"].to_numpy()[train])
    levels = table["device"].astype(str).to_numpy()[train]
    assert told(before.values[train], levels, patients) > 0.9
    assert abs(told(after.values[train], levels, patients) - 0.5) < 0.1
    assert after.images["image_id"].tolist() == before.images["image_id"].tolist()
    assert (after.spec["taken_out"], after.spec["remedy"], after.spec["derived_from"]) == (
        "device",
        "LEACE",
        made.path.name,
    )
    assert after.spec["learnt_from"] == patients.n_patients


@pytest.mark.long
def test_the_run_is_found_by_name_compared_with_nothing_else_and_never_the_default(
    embedded: tuple[Study, RunFolder, RunFolder],
) -> None:
    study, found, made = embedded
    stored = load_vectors(made.path)
    run = take_out(study, found, made, rows_of(found, stored.images), "device")
    name = "pixels less device (leace)"
    assert {parent["key"] for parent in run.record["parents"]} == {found.key, made.key}
    assert choose_vectors(study.analysis, found, name).path == run.path
    assert choose_vectors(study.analysis, found).path == made.path
    assert set(newest_vectors(study.analysis, found)) == {"pixels"}
    with pytest.raises(UserError, match="they differ in the weights"):
        same_space(stored.spec, load_vectors(run.path).spec)
    assert open_index(run.path, load_vectors(run.path)) is not None
    assert take_out(study, found, made, rows_of(found, stored.images), "device").done
    quick = load_study(study.path, [f"analysis={study.analysis}", "audit.permutations=19", "audit.further=false"])
    assert audit_study(quick, found, run, progress=False).read_json("audit.json")["backbone"] == name


@pytest.mark.long
def test_a_residual_needs_the_level_and_leaves_out_who_has_none(embedded: tuple[Study, RunFolder, RunFolder]) -> None:
    study, found, made = embedded
    stored = load_vectors(made.path)
    table = rows_of(found, stored.images)
    table.loc[table["patient"] == table["patient"].iloc[0], "device"] = None
    run = take_out(study, found, made, table, "device", "residual")
    assert set(load_vectors(run.path).images["patient"]) == set(table["patient"]) - {table["patient"].iloc[0]}


@pytest.mark.parametrize(
    ("factor", "remedy", "message"),
    [
        ("devise", "leace", "no acquisition variable `devise`; did you mean `device`"),
        ("device", "bleach", "not a remedy that changes vectors: write leace, residual, combat"),
    ],
)
def test_mistakes_get_a_sentence(
    embedded: tuple[Study, RunFolder, RunFolder], factor: str, remedy: str, message: str
) -> None:
    study, found, made = embedded
    table = rows_of(found, load_vectors(made.path).images)
    with pytest.raises(UserError, match=message):
        take_out(study, found, made, table, factor, remedy)  # type: ignore[arg-type]


def test_few_training_patients_and_a_second_time_are_refused(embedded: tuple[Study, RunFolder, RunFolder]) -> None:
    study, found, made = embedded
    table = rows_of(found, load_vectors(made.path).images)
    with pytest.raises(UserError, match="start from the vectors as they were embedded"):
        take_out(study, found, take_out(study, found, made, table, "device"), table, "device")
    few = table.assign(device=np.where(table["patient"].isin(table["patient"].unique()[:3]), "A", "B"))
    with pytest.raises(UserError, match="`device` cannot be removed: too few patients"):
        take_out(study, found, made, few, "device")


def test_the_verb(embedded: tuple[Study, RunFolder, RunFolder], pellucid, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    study, _, _ = embedded
    done = pellucid("take-out", study.path, f"analysis={study.analysis}", "--factor", "device", "--backbone", "pixels")
    assert done.returncode == 0, done.stderr
    assert "pixels less device (leace)" in done.stdout


def test_it_goes_when_a_patient_withdraws_from_whose_vectors_it_was_learnt(
    embedded: tuple[Study, RunFolder, RunFolder], tmp_path: Path
) -> None:
    study, found, made = embedded
    take_out(study, found, made, rows_of(found, load_vectors(made.path).images), "device")
    shutil.copytree(study.path.parent, tmp_path / "study")
    own = load_study(tmp_path / "study")
    who = str(load_vectors(made.path).images["patient"].iloc[0])
    assert forget_patients(own, [who], yes=True, say=lambda _: None)
    left = [folder for folder in (own.analysis / "embed").iterdir() if (folder / "spec.json").is_file()]
    assert [folder.name for folder in left] == [made.path.name]
    assert who not in set(load_vectors(left[0]).images["patient"])
