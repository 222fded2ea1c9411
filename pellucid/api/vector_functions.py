"""Functions that make or use vectors: pretrain, embed, search, near duplicates, clusters, erasure, export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pellucid.api.opened_study import StudyOrPath, load, open_study
from pellucid.cohort.progress import is_first_process
from pellucid.cohort.runs import RunFolder
from pellucid.cohort.study import Study

if TYPE_CHECKING:
    from pellucid.embed.search.similar_images import Answer


def pretrain_study(
    study: StudyOrPath,
    overrides: Sequence[str] = (),
    *,
    config: Path | None = None,
    recipe: str | None = None,
    device: str = "auto",
    onnx: Path | None = None,
    progress: bool = True,
) -> RunFolder:
    """Pretrain a backbone on the training patients' images, without labels.

    Args:
        study, overrides, config: as for `scan_study`.
        recipe: name in `configs/pretrain`, or a YAML file; None: as in study.yaml.
        device: auto, cpu or cuda.
        onnx: also write the backbone to this ONNX file.
        progress: show progress bars.

    Returns:
        The run of the stage `pretrain`, with `backbone.safetensors`, `preprocess.json` and `training.html`.

    Raises:
        UserError: no current scan, a mistake in the recipe, or too few images.
    """
    from pellucid.pretrain.stage import pretrain

    loaded = load(study, [*overrides, *([f"pretrain.recipe={recipe}"] if recipe else [])], config)
    if onnx is not None:
        from pellucid.pretrain.export import can_export

        can_export(onnx)
    opened = open_study(loaded)
    run = pretrain(opened.study, opened.scan, device=device, progress=progress)
    if onnx is not None and is_first_process():
        from pellucid.pretrain.export import export_onnx

        export_onnx(run.path, onnx)
    return run


def embed_study(
    study: StudyOrPath,
    overrides: Sequence[str] = (),
    *,
    config: Path | None = None,
    backbone: str | None = None,
    device: str = "auto",
    progress: bool = True,
) -> RunFolder:
    """Compute one vector per image with a frozen backbone and, with `embed.patients`, one vector per patient.

    Args:
        study, overrides, config: as for `scan_study`.
        backbone: `pixels`, or `run:`, `timm:`, `timm-random:`, `hf:` or `file:` and a name; None: the study's own.
        device: auto, cpu or cuda.
        progress: show progress bars.

    Returns:
        The run of the stage `embed`, with `vectors.npy` (n, dim), `images.parquet` (n rows) and `spec.json`;
        `load_vectors(run.path)` reads it.

    Raises:
        UserError: no current scan, or a backbone that cannot be loaded.
    """
    return embed_runs(study, overrides, config=config, backbone=backbone, device=device, progress=progress)[0]


def embed_runs(
    study: StudyOrPath,
    overrides: Sequence[str] = (),
    *,
    config: Path | None = None,
    backbone: str | None = None,
    device: str = "auto",
    progress: bool = True,
) -> list[RunFolder]:
    """As `embed_study`; returns the run of the images and, with `embed.patients`, the run of the patients."""
    from pellucid.embed.extract import EmbedConfig, embed, embed_patients
    from pellucid.pretrain.export import newest_backbone

    opened = open_study(study, overrides, config)
    name = backbone or f"run:{newest_backbone(opened.study, opened.scan).path}"
    run = embed(opened.study, opened.scan, name, device=device, progress=progress)
    how = opened.study.section("embed", EmbedConfig).patients
    if how == "none" or not is_first_process():
        return [run]
    return [run, embed_patients(opened.study, run, how)]


def search_study(
    study: StudyOrPath,
    image: str,
    overrides: Sequence[str] = (),
    *,
    config: Path | None = None,
    k: int = 12,
    backbone: str | None = None,
    same_patient: bool = False,
    exclude_patient: str | None = None,
    where: Sequence[str] = (),
    region: tuple[int, int, int, int] | None = None,
    one_per_patient: bool = False,
) -> Answer:
    """Find the images most similar to one, from other patients.

    Args:
        study, overrides, config: as for `scan_study`; or a folder that `embed_folder` has written.
        image: an image_id, an image file, or a `.npy` file with one vector, (dim,).
        k: number of images.
        backbone: whose vectors are searched; None: the study's own.
        same_patient: include images of the query's patient.
        exclude_patient: research id of a patient to exclude, for example the one a new image belongs to.
        where: filters such as `device=A`, `age>60` or `grade=2|3`.
        region: (left, top, width, height) in pixels: search by this part of the image.
        one_per_patient: only the nearest image of each patient.

    Returns:
        An object with `hits` (a frame, one row per image found) and `sentences()`.

    Raises:
        UserError: an unknown image or column, or a region outside the image.
    """
    from pellucid.embed.search import search_image
    from pellucid.embed.store import load_vectors

    options: dict[str, Any] = {
        "same_patient": same_patient, "region": region, "where": list(where), "one_per_patient": one_per_patient,
        **({"exclude_patient": exclude_patient} if exclude_patient else {}),
    }  # fmt: skip
    folder = _vector_folder(study)
    if folder is not None:
        return search_image(load_vectors(folder), image, k, **options)
    import pandas as pd

    opened = open_study(study, overrides, config, backbone=backbone, with_vectors=True)
    root = opened.study.image_root
    if Path(image).is_file() and Path(image).resolve().is_relative_to(root):
        image = Path(image).resolve().relative_to(root).as_posix()  # an image of the study itself
    return search_image(
        load_vectors(opened.embedded.path), image, k, file=root / image,
        table=pd.read_parquet(opened.scan.path / "manifest.parquet"),
        columns=[v.name for v in opened.study.variables if v.role == "acquisition"], **options,
    )  # fmt: skip


def near_study(
    study: StudyOrPath,
    overrides: Sequence[str] = (),
    *,
    config: Path | None = None,
    backbone: str | None = None,
    progress: bool = True,
) -> RunFolder:
    """Find near duplicates (the same image under two patients, rotated, mirrored or cropped) and outliers.

    Args:
        study, overrides, config, progress: as for `scan_study`.
        backbone: whose vectors; None: the study's own.

    Returns:
        The run of the stage `near`, with `near.parquet` (pairs), `unusual.parquet` and `near.json` (sentences).

    Raises:
        UserError: no current scan, or no vectors.
    """
    from pellucid.embed.near_duplicates import near

    opened = open_study(study, overrides, config, backbone=backbone, with_vectors=True)
    return near(opened.study, opened.embedded, opened.scan, progress=progress)


def cluster_study(
    study: StudyOrPath,
    overrides: Sequence[str] = (),
    *,
    config: Path | None = None,
    backbone: str | None = None,
    progress: bool = True,
) -> RunFolder:
    """Map the vectors (UMAP), find clusters (HDBSCAN), and test each variable for association with them.

    Args:
        study, overrides, config, progress: as for `scan_study`.
        backbone: whose vectors; None: the study's own.

    Returns:
        The run of the stage `cluster`, with `clusters.parquet` and `clusters.json`.

    Raises:
        UserError: no current scan, or no vectors.
    """
    from pellucid.explore.clusters import cluster

    opened = open_study(study, overrides, config, backbone=backbone, with_vectors=True)
    return cluster(opened.study, opened.embedded, opened.scan, progress=progress)


def erase_factor(
    study: StudyOrPath,
    factor: str,
    overrides: Sequence[str] = (),
    *,
    config: Path | None = None,
    backbone: str | None = None,
    method: Literal["leace", "residual", "combat"] = "leace",
) -> RunFolder:
    """Write vectors from which an acquisition factor has been removed; the command is `take-out`.

    Args:
        study, overrides, config: as for `scan_study`.
        factor: an acquisition variable of the study.
        backbone: whose vectors; None: the study's own.
        method: LEACE, regression residuals, or ComBat; learned from training patients only.

    Returns:
        A run of the stage `embed` with the changed vectors.

    Raises:
        UserError: no such factor, or too few training patients with two of its levels.
    """
    from pellucid.embed.store import load_vectors
    from pellucid.probes.erasure import take_out
    from pellucid.probes.stage import rows_of

    opened = open_study(study, overrides, config, backbone=backbone, with_vectors=True)
    rows = rows_of(opened.scan, load_vectors(opened.embedded.path).images)
    return take_out(opened.study, opened.scan, opened.embedded, rows, factor, method)


def export_study(
    study: StudyOrPath,
    to: Literal["parquet", "h5ad", "projector", "atlas"],
    out: Path,
    overrides: Sequence[str] = (),
    *,
    config: Path | None = None,
    backbone: str | None = None,
    columns: Sequence[str] = (),
    keep_image_ids: bool = False,
    pictures: bool = True,
    overwrite: bool = False,
) -> list[str]:
    """Write the vectors for other programs, with research ids instead of identifiers.

    Args:
        study, overrides, config: as for `scan_study`; or a folder that `embed_folder` has written.
        to: Parquet, AnnData, TensorBoard projector, or Embedding Atlas.
        out: the file (projector: the folder) to write.
        backbone: whose vectors; None: the study's own.
        columns: columns of the manifest; empty: the usual ones.
        keep_image_ids: name images by their paths instead of research ids.
        pictures: add thumbnails for the projector.
        overwrite: replace an earlier export.

    Returns:
        Sentences: what was written, how to open it, and what to check before it is shared.

    Raises:
        UserError: an unknown column, a column that must not leave the study, or a file that exists.
    """
    from pellucid.embed.export import choose_folder, choose_study, export_vectors

    folder = _vector_folder(study)
    if folder is not None:
        chosen = choose_folder(folder, columns, keep_image_ids=keep_image_ids)
    else:
        opened = open_study(study, overrides, config, backbone=backbone, with_vectors=True)
        chosen = choose_study(opened.study, opened.scan, opened.embedded, columns, keep_image_ids=keep_image_ids)
    sentences = export_vectors(chosen, to, Path(out), overwrite=overwrite, pictures=pictures)
    return [f"{len(chosen.frame)} vectors of {chosen.vectors.name} → {out}", *sentences]


def _vector_folder(study: StudyOrPath) -> Path | None:
    """The path, if it is a folder of vectors instead of a study."""
    if isinstance(study, Study) or not (Path(study) / "vectors.npy").is_file():
        return None
    return Path(study)
