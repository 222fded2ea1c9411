"""Select what an export contains: vectors, permitted columns, and map and pictures if there are any."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.cohort.config import did_you_mean
from pellucid.cohort.errors import UserError
from pellucid.cohort.identifiers import shareable
from pellucid.cohort.images import PreparedImages
from pellucid.cohort.manifest import research_ids
from pellucid.cohort.runs import DamagedRun, RunFolder, newest_runs
from pellucid.cohort.study import Study
from pellucid.embed.store.vectors import Vectors, load_vectors

PRIVATE = ("patient_source_id", "text_read", "reason", "prepared")  # identify people, or repeat burned-in text: never
_FILES = ("image_id", "file", "frame", "duplicate_of")  # paths often contain names: on request only
_HASHES = ("sha256", "pixel_hash", "perceptual_hash", "content")  # would link an export to originals: never
_INTERNAL = ("shard", "shard_row", "status")  # meaningless outside this machine, or constant
_DEFAULT = re.compile(
    r"patient|split|phenotype_.*|quality_.*|image_grade.*|duplicate_(group|kind|question)|format|width|height|bits|"
    r"header_(manufacturer|model|software|modality|year|operator|institution|serial)|n_images|agreement"
)
# Keys of spec.json that contain paths or names of images, or describe the run only.
_PRIVATE_SPEC = frozenset({"location", "failed", "source", "taken_over", "n"})


@dataclass(frozen=True)
class Chosen:
    """The content of an export, independent of its format.

    Attributes:
        vectors: the store.
        frame: n rows in the order of the vectors: `image` (a research id), patient, split and further columns.
        xy: (n, 2) float32, the map of a `cluster` run; None if there is none.
        pictures: prepared copies in the same order; None if there are none.
        shown: (n,) which pictures may be shown, because they have no burned-in text.
        named: images are named by their image_id, that is, by the path of the file.
    """

    vectors: Vectors
    frame: pd.DataFrame
    xy: NDArray[np.float32] | None = None
    pictures: PreparedImages | None = None
    shown: NDArray[np.bool_] | None = None
    named: bool = False

    @property
    def spec(self) -> dict[str, Any]:
        """The description of the vectors from spec.json, without paths and names of images."""
        return {key: value for key, value in self.vectors.spec.items() if key not in _PRIVATE_SPEC}


def choose_study(
    study: Study,
    scan: RunFolder,
    run: RunFolder,
    columns: Sequence[str] = (),
    *,
    keep_image_ids: bool = False,
) -> Chosen:
    """The vectors of an `embed` run of a study, with columns of its manifest.

    Args:
        columns: columns to export; none: patient, split, the variables of the study, phenotypes, quality, and device
            facts from the headers. Operators, institutions and serial numbers are already running numbers in the
            manifest.
        keep_image_ids: name images by their paths, and permit other columns with paths.

    Raises:
        UserError: an unknown column, or one that is never exported.
    """
    vectors = load_vectors(run.path)
    manifest = pd.read_parquet(scan.path / "manifest.parquet")
    manifest = manifest[manifest["status"] == "ok"]
    images = _research_images(manifest)
    rows = manifest.set_index("image_id", drop=False).loc[vectors.images["image_id"].tolist()].reset_index(drop=True)
    per_patient = vectors.spec.get("unit") == "patient"
    own = vectors.images.reset_index(drop=True)
    rows = rows.assign(**{name: own[name] for name in own.columns if name not in rows and name != "content"})
    declared = [variable.name for variable in study.variables if variable.name in rows]
    chosen = _columns(rows, columns, declared, keep_image_ids)
    names = rows["patient"] if per_patient else rows["image_id"] if keep_image_ids else rows["image_id"].map(images)
    frame = pd.DataFrame({"image": names.astype(str), **{name: rows[name] for name in chosen}})
    xy, cluster = _map(study.analysis, run, rows["image_id"])
    if cluster is not None and "cluster" not in frame:
        frame["cluster"] = cluster
    try:
        pictures = None if per_patient else PreparedImages.open(scan.path, rows["image_id"].tolist())
    except DamagedRun:
        raise
    except UserError:  # the prepared copies were deleted to save space
        pictures = None
    return Chosen(vectors, frame, xy, pictures, shareable(rows).to_numpy(), keep_image_ids and not per_patient)


def choose_folder(folder: Path, columns: Sequence[str] = (), *, keep_image_ids: bool = False) -> Chosen:
    """The vectors of a folder written by `embed --out`; only their files are known.

    Raises:
        UserError: an unknown column, or one that is never exported.
    """
    vectors = load_vectors(folder)
    rows = vectors.images.drop(columns="content", errors="ignore").reset_index(drop=True)
    names = research_ids(rows["patient"].astype(str).tolist(), 0)
    rows = rows.assign(patient=rows["patient"].astype(str).map(names))
    chosen = _columns(rows, columns, [], keep_image_ids)
    shown = rows["image_id"] if keep_image_ids else rows["image_id"].map(_research_images(rows))
    frame = pd.DataFrame({"image": shown.astype(str), **{name: rows[name] for name in chosen}})
    return Chosen(vectors, frame, named=keep_image_ids)


def _research_images(manifest: pd.DataFrame) -> pd.Series:
    """image_id → `P0007-02`, the second image of that patient, numbered as in report and explorer."""
    rows = manifest[["image_id", "patient"]].sort_values("image_id")
    number = rows.groupby("patient").cumcount() + 1
    width = max(2, len(str(int(number.max())))) if len(number) else 2
    names = rows["patient"].astype(str) + "-" + number.astype(str).str.zfill(width)
    return pd.Series(names.to_numpy(), index=rows["image_id"].to_numpy())


def _columns(rows: pd.DataFrame, asked: Sequence[str], declared: Sequence[str], keep_image_ids: bool) -> list[str]:
    available = [str(name) for name in rows.columns if name not in (*PRIVATE, *_INTERNAL)]
    if not asked:
        default = [name for name in available if _DEFAULT.fullmatch(name) or name in declared]
        return [name for name in dict.fromkeys(["patient", "split", *declared, *default]) if name in available]
    for name in asked:
        if name in _HASHES:
            raise UserError(
                f"the column `{name}` is never exported: it is a hash of the file and would link the export to the "
                "original"
            )
        if name in PRIVATE:
            raise UserError(f"the column `{name}` is never exported: it identifies people or repeats text from images")
        if name in _FILES and not keep_image_ids:
            raise UserError(
                f"the column `{name}` contains file paths, which often include names: add --keep-image-ids to export it"
            )
        if name not in available:
            raise UserError(
                f"unknown column `{name}`{did_you_mean(name, available)}; available: {', '.join(available)}"
            )
    return list(dict.fromkeys(["patient", "split", *asked]))


def _map(
    analysis: Path, run: RunFolder, image_ids: pd.Series
) -> tuple[NDArray[np.float32] | None, NDArray[np.int64] | None]:
    """Coordinates and clusters of the newest `cluster` run made from these vectors, in the order of `image_ids`."""
    for made in reversed(newest_runs(analysis, "cluster", run)):
        path = made.path / "clusters.parquet"
        if path.is_file():
            found = pd.read_parquet(path).drop_duplicates("image_id").set_index("image_id")
            if {"x", "y", "cluster"} <= set(found.columns) and image_ids.isin(found.index).all():
                found = found.loc[image_ids.tolist()]
                return found[["x", "y"]].to_numpy(np.float32), found["cluster"].to_numpy(np.int64)
    return None, None
