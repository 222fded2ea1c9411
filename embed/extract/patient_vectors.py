"""The vectors of a patient's images → one vector a patient, as a run of its own that is derived from the images' run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.cohort.errors import UserError
from pellucid.cohort.runs import RunFolder, begin_run
from pellucid.cohort.study import Study, Variable
from pellucid.embed.backbones.backbone import slug
from pellucid.embed.extract.job import EmbedConfig
from pellucid.embed.index import build_index
from pellucid.embed.store.vectors import load_vectors, write_vectors

PatientVector = Literal["mean", "medoid", "weighted"]
_VERSION = 1  # of what is computed here
_ROWS = 32_768  # held at once; a patient with more images than that is held whole


def embed_patients(study: Study, images_run: RunFolder, how: PatientVector = "mean") -> RunFolder:
    """One vector a patient from a finished `embed` run; the new run's only parent is that run.

    Its `images.parquet` has a row a patient: patient, split, n_images, agreement (0–1, how alike the images are), and as
    image_id the patient's most typical image, so that whatever shows a picture has one to show. Vectors have length 1.

    Args:
        how: see `patient_vectors`.

    Raises:
        UserError: the run holds patient vectors already, every image is its own patient, or `how` is not known.
    """
    if how not in get_args(PatientVector):
        raise UserError(f"embed.patients is `{how}`: write {', '.join(get_args(PatientVector))}")
    stored = load_vectors(images_run.path)
    if stored.spec["unit"] != "image":
        raise UserError(f"{images_run.path}: holds patient vectors already; name the run of the images")
    if stored.images["patient"].is_unique:
        raise UserError(
            f"{images_run.path}: no patient has two images, so that vectors of patients would be those of the images"
        )
    name = f"{stored.name} per patient ({how})"
    config = {"patients": how, "version": _VERSION}
    with begin_run(study.analysis, "embed", slug(name), config, [images_run]) as run:
        if not run.done:
            rows, values = patient_vectors(stored.values, stored.images, how)
            left_out = ("tokens", "failed", "dtype", "normalised", "unit", "space", "schema", "n", "dim", "taken_over")
            spec = {key: value for key, value in stored.spec.items() if key not in left_out} | {
                "backbone": name,
                "unit": "patient",
                "per_patient": how,
                "normalised": True,
                "dtype": "float32",
                "derived_from": images_run.path.name,
                "derived_space": stored.space,
                "failed": [],
            }
            write_vectors(run.path, values, rows, spec)
            index = study.section("embed", EmbedConfig).index
            options = (index.recall, index.kind, index.memory_gb, rows["patient"].to_numpy())
            build_index(run.path, values, load_vectors(run.path).space, *options)
    return run


def patient_vectors(
    values: NDArray[np.float32], images: pd.DataFrame, how: PatientVector = "mean"
) -> tuple[pd.DataFrame, NDArray[np.float32]]:
    """One vector of length 1 for each patient.

    Each image's vector is scaled to length 1 first: otherwise an image whose vector is long would speak louder, for no
    reason that anybody chose. And so is the result: the mean of unit vectors is the shorter the more they differ, and
    alone it is always of length 1, so that its length would tell how many images were taken of the patient, which is
    an affair of the clinic. (That length is kept beside the vectors, as `agreement`.)

    With u_i the unit vectors of a patient's n images:

    - `mean`: Σ u_i, the mean direction (Mardia & Jupp 2000, section 9.2.1).
    - `medoid`: the image with the greatest sum of cosines to the others (Kaufman & Rousseeuw 1990, chapter 2): a vector that
      an image really has. Under the cosine that is the image nearest to the mean direction, Σ_j u_i·u_j = u_i·Σ_j u_j.
    - `weighted`: Σ w_i u_i with w_i = max(0, mean cosine of image i to the patient's other images): an image unlike all
      others, blurred or of another view, hardly counts. Degree centrality in the graph of similarities (Erkan & Radev
      2004, section 3.1), in the place of attention that would have to be learnt. Of one or two images it is the mean.

    Args:
        values: (n, dim) float32, perhaps memory-mapped: a block of patients is read at a time.
        images: n rows with image_id, patient and split.
        how: one of the three.

    Returns:
        A row a patient, sorted by patient (image_id, patient, split, n_images, agreement), and (n_patients, dim) float32.

    Raises:
        UserError: a patient has no direction (the unit vectors cancel out, or all are zero).
    """
    codes, names = pd.factorize(images["patient"].astype(str), sort=True)
    order = np.argsort(codes, kind="stable")  # the images of a patient one after another, in the store's order
    sizes = np.bincount(codes, minlength=len(names))
    made = np.empty((len(names), values.shape[1]), np.float32)
    agreement = np.empty(len(names), np.float64)
    typical = np.empty(len(names), np.int64)
    for first, last in _blocks(sizes):
        begin, end = int(sizes[:first].sum()), int(sizes[:last].sum())
        rows = order[begin:end]
        read = np.asarray(values[np.sort(rows)], np.float64)[np.argsort(np.argsort(rows))]  # a map is read in its order
        unit = read / np.maximum(np.linalg.norm(read, axis=1, keepdims=True), 1e-12)
        starts = np.cumsum(sizes[first:last]) - sizes[first:last]
        block = slice(first, last)
        made[block], agreement[block], nearest = _of_block(unit, starts, sizes[first:last], how)
        typical[block] = rows[nearest]
    lost = np.flatnonzero(~np.isfinite(agreement))
    if len(lost):
        raise UserError(f"patient {names[lost[0]]}: the vectors of the images cancel out; embed with another backbone")
    chosen = images.iloc[typical]
    table = pd.DataFrame(
        {
            "image_id": chosen["image_id"].to_numpy(),
            "patient": names,
            "split": chosen["split"].to_numpy(),
            "n_images": sizes.astype(np.int64),
            "agreement": agreement,
        }
    )
    return table, made


def _blocks(sizes: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Ranges of whole patients of about `_ROWS` images each."""
    first, held = 0, 0
    for i, size in enumerate(sizes):
        if held and held + size > _ROWS:
            yield first, i
            first, held = i, 0
        held += int(size)
    if len(sizes):
        yield first, len(sizes)


def _of_block(
    unit: NDArray[np.float64], starts: NDArray[np.int64], sizes: NDArray[np.int64], how: PatientVector
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.int64]]:
    """Vectors, agreement (NaN where there is no direction) and row of the most typical image, of several patients."""
    owner = np.repeat(np.arange(len(sizes)), sizes)
    total = np.add.reduceat(unit, starts, axis=0)
    length = np.linalg.norm(total, axis=1)
    towards = np.einsum("ij,ij->i", unit, total[owner])  # Σ_j u_i·u_j, the image itself included
    own = np.einsum("ij,ij->i", unit, unit)
    medoid = _first_greatest(towards, starts, owner)
    if how == "medoid":
        vectors = unit[medoid]
    elif how == "weighted":
        others = (towards - own) / np.maximum(sizes[owner] - 1, 1)
        weights = np.where(sizes[owner] <= 2, 1.0, np.maximum(others, 0))
        none = np.add.reduceat(weights, starts) <= 0  # all images unlike each other: none counts less than another
        weights[none[owner]] = 1
        vectors = np.add.reduceat(weights[:, None] * unit, starts, axis=0)
    else:
        vectors = total
    norm = np.linalg.norm(vectors, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        vectors = vectors / norm[:, None]
        agreement = np.where(norm > 1e-9, np.minimum(length / sizes, 1), np.nan)
    cosines = np.einsum("ij,ij->i", unit, vectors[owner])
    return vectors.astype(np.float32), agreement, _first_greatest(cosines, starts, owner)


def _first_greatest(
    scores: NDArray[np.float64], starts: NDArray[np.int64], owner: NDArray[np.int64]
) -> NDArray[np.int64]:
    """For each patient the row with the greatest score; of equal ones, to rounding, the first."""
    greatest = np.maximum.reduceat(np.nan_to_num(scores, nan=-np.inf), starts)
    rows = np.flatnonzero(np.nan_to_num(scores, nan=-np.inf) >= greatest[owner] - 1e-9)
    return rows[np.unique(owner[rows], return_index=True)[1]].astype(np.int64)


def patient_table(
    manifest: pd.DataFrame, patients: pd.Series, variables: list[Variable]
) -> tuple[pd.DataFrame, list[str]]:
    """The variables by patient, for probes of patient vectors.

    A patient has the value that all images that have one agree on. Where they do not (the left eye has it, the right one
    has not), no rule would be right for every variable, and the patient's value is missing.

    Args:
        manifest: of the scan, one row per image.
        patients: whose, in the order of the vectors (`Vectors.images["patient"]`).
        variables: those of the study.

    Returns:
        One row a patient in that order, `patient` and the variables; and a sentence for each variable on which images of
        the same patient differ.

    Raises:
        UserError: a patient that the manifest does not know.
    """
    usable = manifest[manifest["status"] == "ok"]
    unknown = patients[~patients.isin(usable["patient"])]
    if len(unknown):
        raise UserError(
            f"these vectors hold patient {unknown.iloc[0]}, whom the scan does not know: run `pellucid embed` again"
        )
    table, said = pd.DataFrame({"patient": patients.to_numpy()}), []
    groups = usable.groupby("patient", sort=False)
    for variable in variables:
        if variable.name not in usable:
            continue
        differ = groups[variable.name].nunique(dropna=True).reindex(patients).to_numpy() > 1
        value = groups[variable.name].first().reindex(patients)  # the first that is not missing
        table[variable.name] = value.mask(differ).to_numpy()
        if differ.any():
            said.append(
                f"{variable.name}: images of the same patient differ for {int(differ.sum())} of {len(patients)} patients, "
                "whose value is taken as missing"
            )
    return table, said
