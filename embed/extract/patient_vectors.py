"""Vectors of a patient's images → one vector per patient, as a separate run derived from that of the images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.cohort.errors import UserError
from pellucid.cohort.runs import RunFolder, begin_run
from pellucid.cohort.study import Study, Variable
from pellucid.embed.backbones.backbone import backbone_slug
from pellucid.embed.extract.embed_config import EmbedConfig
from pellucid.embed.index import build_index
from pellucid.embed.store.vectors import load_vectors, write_vectors

PatientVector = Literal["mean", "medoid", "weighted"]
_VERSION = 1  # of the computation below
MAX_ROWS = 32_768  # in memory at once, unless a single patient has more images


def embed_patients(study: Study, images_run: RunFolder, how: PatientVector = "mean") -> RunFolder:
    """One vector per patient from a finished `embed` run, which is the only parent of the new run.

    `images.parquet` has one row per patient: patient, split, n_images, agreement (0–1, similarity of the images), and
    as image_id the patient's most typical image, so that figures have an image to show. Vectors have length 1.

    Args:
        how: see `patient_vectors`.

    Raises:
        UserError: the run already contains patient vectors, no patient has two images, or `how` is unknown.
    """
    if how not in get_args(PatientVector):
        raise UserError(f"embed.patients is `{how}`: choose {', '.join(get_args(PatientVector))}")
    stored = load_vectors(images_run.path)
    if stored.spec["unit"] != "image":
        raise UserError(f"{images_run.path}: already contains patient vectors; give the run of the images")
    if stored.images["patient"].is_unique:
        raise UserError(
            f"{images_run.path}: no patient has two images, so patient vectors would equal the image vectors"
        )
    name = f"{stored.name} per patient ({how})"
    config = {"patients": how, "version": _VERSION}
    with begin_run(study.analysis, "embed", backbone_slug(name), config, [images_run]) as run:
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

    Each image vector is first scaled to length 1; otherwise images with long vectors would have more weight. The result
    is scaled too: the mean of unit vectors is shorter the more they differ, and has length 1 for a single image, so its
    length would encode the number of images, a property of clinical practice. That length is stored as `agreement`.

    With u_i the unit vectors of a patient's n images:

    - `mean`: Σ u_i, the mean direction (Mardia & Jupp 2000, section 9.2.1).
    - `medoid`: the image with the greatest sum of cosines to the others (Kaufman & Rousseeuw 1990, chapter 2). With
      cosines this is the image nearest to the mean direction, since Σ_j u_i·u_j = u_i·Σ_j u_j.
    - `weighted`: Σ w_i u_i with w_i = max(0, mean cosine of image i to the patient's other images), so that an image
      unlike the others (blurred, another view) has little weight. This is degree centrality in the similarity graph
      (Erkan & Radev 2004, section 3.1), in place of learnt attention. For one or two images it equals the mean.

    Args:
        values: (n, dim) float32, possibly memory-mapped; patients are read in blocks.
        images: n rows with image_id, patient and split.
        how: one of the three rules.

    Returns:
        One row per patient, sorted by patient (image_id, patient, split, n_images, agreement), and (n_patients, dim)
        float32.

    Raises:
        UserError: a patient has no mean direction (the unit vectors cancel out, or all are zero).
    """
    codes, names = pd.factorize(images["patient"].astype(str), sort=True)
    order = np.argsort(codes, kind="stable")  # rows grouped by patient, in the store's order
    sizes = np.bincount(codes, minlength=len(names))
    made = np.empty((len(names), values.shape[1]), np.float32)
    agreement = np.empty(len(names), np.float64)
    typical = np.empty(len(names), np.int64)
    for first, last in _blocks(sizes):
        begin, end = int(sizes[:first].sum()), int(sizes[:last].sum())
        rows = order[begin:end]
        # Read the memory map in the order of the file.
        read = np.asarray(values[np.sort(rows)], np.float64)[np.argsort(np.argsort(rows))]
        unit = read / np.maximum(np.linalg.norm(read, axis=1, keepdims=True), 1e-12)
        starts = np.cumsum(sizes[first:last]) - sizes[first:last]
        block = slice(first, last)
        made[block], agreement[block], nearest = _combine_block(unit, starts, sizes[first:last], how)
        typical[block] = rows[nearest]
    lost = np.flatnonzero(~np.isfinite(agreement))
    if len(lost):
        raise UserError(
            f"patient {names[lost[0]]}: the vectors of the patient's images cancel out; use another backbone, or the "
            "medoid"
        )
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
    """Ranges of whole patients with about `MAX_ROWS` images each."""
    first, held = 0, 0
    for i, size in enumerate(sizes):
        if held and held + size > MAX_ROWS:
            yield first, i
            first, held = i, 0
        held += int(size)
    if len(sizes):
        yield first, len(sizes)


def _combine_block(
    unit: NDArray[np.float64], starts: NDArray[np.int64], sizes: NDArray[np.int64], how: PatientVector
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.int64]]:
    """Vectors, agreement (NaN if there is no mean direction) and row of the most typical image, for several
    patients."""
    owner = np.repeat(np.arange(len(sizes)), sizes)
    total = np.add.reduceat(unit, starts, axis=0)
    length = np.linalg.norm(total, axis=1)
    towards = np.einsum("ij,ij->i", unit, total[owner])  # Σ_j u_i·u_j, including the image itself
    own = np.einsum("ij,ij->i", unit, unit)
    medoid = _first_greatest(towards, starts, owner)
    if how == "medoid":
        vectors = unit[medoid]
    elif how == "weighted":
        others = (towards - own) / np.maximum(sizes[owner] - 1, 1)
        weights = np.where(sizes[owner] <= 2, 1.0, np.maximum(others, 0))
        none = np.add.reduceat(weights, starts) <= 0  # no image resembles another: equal weights
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
    """For each patient the row with the greatest score; the first one of ties (up to rounding)."""
    greatest = np.maximum.reduceat(np.nan_to_num(scores, nan=-np.inf), starts)
    rows = np.flatnonzero(np.nan_to_num(scores, nan=-np.inf) >= greatest[owner] - 1e-9)
    return rows[np.unique(owner[rows], return_index=True)[1]].astype(np.int64)


def patient_table(
    manifest: pd.DataFrame, patients: pd.Series, variables: list[Variable]
) -> tuple[pd.DataFrame, list[str]]:
    """The variables by patient, for probes of patient vectors.

    A patient's value is the one shared by all images that have a value. If images differ (a finding in one eye only),
    no rule suits every variable, and the patient's value is missing.

    Args:
        manifest: manifest of the scan, one row per image.
        patients: the patients in the order of the vectors (`Vectors.images["patient"]`).
        variables: the variables of the study.

    Returns:
        One row per patient in that order, with `patient` and the variables; and a sentence for each variable in which
        images of the same patient differ.

    Raises:
        UserError: a patient is missing in the manifest.
    """
    usable = manifest[manifest["status"] == "ok"]
    unknown = patients[~patients.isin(usable["patient"])]
    if len(unknown):
        raise UserError(
            f"the vectors contain patient {unknown.iloc[0]}, who is not in the scan: run `pellucid embed` again"
        )
    table, sentences = pd.DataFrame({"patient": patients.to_numpy()}), []
    groups = usable.groupby("patient", sort=False)
    for variable in variables:
        if variable.name not in usable:
            continue
        differ = groups[variable.name].nunique(dropna=True).reindex(patients).to_numpy() > 1
        value = groups[variable.name].first().reindex(patients)  # the first that is not missing
        table[variable.name] = value.mask(differ).to_numpy()
        if differ.any():
            sentences.append(
                f"{variable.name}: images of the same patient differ for {int(differ.sum())} of {len(patients)} "
                "patients; their value is treated as missing"
            )
    return table, sentences
