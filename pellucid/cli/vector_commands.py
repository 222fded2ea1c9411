"""Commands that make or use vectors: pretrain, embed, search, near, cluster, take-out, export."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from pellucid.cli.options import (
    BackboneName,
    ConfigFile,
    Device,
    ExportFormat,
    Overrides,
    StudyOrVectors,
    StudyPath,
    comma_separated,
    say,
    say_done,
)


def pretrain(
    study: StudyPath,
    overrides: Overrides = None,
    config: ConfigFile = None,
    recipe: Annotated[str | None, typer.Option(help="Recipe in configs/pretrain, or a YAML file.")] = None,
    device: Device = "auto",
    onnx: Annotated[Path | None, typer.Option(help="Also write the backbone to this ONNX file.")] = None,
) -> None:
    """Pretrain a backbone on the images, without labels.

    The page training.html in the folder of the run shows the progress.
    """
    from pellucid.api.vector_functions import pretrain_study

    run = pretrain_study(study, overrides or [], config=config, recipe=recipe, device=device, onnx=onnx)
    say_done("pretrain", run)
    if onnx is not None:
        say(f"onnx: done → {onnx}")


def embed(
    study: Annotated[
        Path, typer.Argument(metavar="STUDY|FOLDER", help="A study, or a plain folder of images with --out.")
    ],
    overrides: Overrides = None,
    config: ConfigFile = None,
    backbone: BackboneName = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the vectors of a plain folder of images.")] = None,
    device: Device = "auto",
) -> None:
    """Compute one vector per image with a frozen backbone."""
    from pellucid.cohort.errors import UserError

    if out is not None:
        _embed_folder(study, overrides or [], backbone, out, device)
        return
    if study.is_dir() and not (study / "study.yaml").is_file():
        raise UserError(f"{study}: contains no study.yaml; a plain folder of images needs --out DIR")
    from pellucid.api.vector_functions import embed_runs

    images, *patients = embed_runs(study, overrides or [], config=config, backbone=backbone, device=device)
    spec = images.read_json("spec.json")
    for failed in spec.get("failed", []):
        say(f"  no vector: {failed['image_id']}: {failed['reason']}", fg="yellow")
    say(f"  {spec['n']:,} vectors with {spec['dim']} dimensions")
    for run in (images, *patients):
        say_done("embed", run)


def _embed_folder(folder: Path, overrides: list[str], backbone: str | None, out: Path, device: str) -> None:
    from pellucid.cohort.errors import UserError
    from pellucid.embed.extract import embed_folder, folder_options
    from pellucid.embed.store import load_vectors

    if backbone is None:
        raise UserError("a folder without a study needs --backbone, for example timm-random:vit_tiny_patch16_224")
    written, failed = embed_folder(folder, backbone, out, device=device, **folder_options(overrides))
    for image_id, reason in failed:
        say(f"  no vector: {image_id}: {reason}", fg="yellow")
    n, dim = load_vectors(written).values.shape
    say(f"embed: done, {n:,} vectors with {dim} dimensions → {written}")


def search(
    study: StudyOrVectors,
    image: Annotated[
        str, typer.Argument(metavar="IMAGE", help="An image_id, an image file, or a .npy file with one vector.")
    ],
    overrides: Overrides = None,
    config: ConfigFile = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of images.")] = 12,
    backbone: BackboneName = None,
    same_patient: Annotated[bool, typer.Option("--same-patient", help="Include images of the same patient.")] = False,
    exclude_patient: Annotated[
        str | None,
        typer.Option(help="Exclude this patient (research id), for example the one a new image belongs to."),
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="Only images with device=A, age>60, grade=2|3 …; may be repeated.")
    ] = None,
    region: Annotated[
        str | None, typer.Option(help="left,top,width,height in pixels: search by this part of the image.")
    ] = None,
    one_per_patient: Annotated[
        bool, typer.Option("--one-per-patient", help="Only the nearest image of each patient.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find the images most similar to one, from other patients."""
    from pellucid.api.vector_functions import search_study
    from pellucid.embed.search import parse_region

    found = search_study(
        study, image, overrides or [], config=config, k=k, backbone=backbone, same_patient=same_patient,
        exclude_patient=exclude_patient, where=where or [], region=parse_region(region) if region else None,
        one_per_patient=one_per_patient,
    )  # fmt: skip
    hits = found.hits.drop(columns="query")
    if as_json:
        typer.echo(hits.to_json(orient="records", indent=1))
        return
    say(hits.to_string(index=False, float_format=lambda value: f"{value:.4f}"))
    for sentence in found.sentences():
        say(f"  {sentence}")


def near(
    study: StudyPath, overrides: Overrides = None, config: ConfigFile = None, backbone: BackboneName = None
) -> None:
    """Find near duplicates across patients, and outliers.

    A near duplicate may be rotated, mirrored, cropped or recompressed.
    """
    from pellucid.api.vector_functions import near_study

    run = near_study(study, overrides or [], config=config, backbone=backbone)
    for sentence in run.read_json("near.json")["sentences"]:
        say(f"  {sentence}")
    say_done("near", run)


def cluster(
    study: StudyPath, overrides: Overrides = None, config: ConfigFile = None, backbone: BackboneName = None
) -> None:
    """Map the vectors, find clusters and what is associated."""
    from pellucid.api.vector_functions import cluster_study

    say_done("cluster", cluster_study(study, overrides or [], config=config, backbone=backbone))


def take_out(
    study: StudyPath,
    factor: Annotated[str, typer.Option(help="Acquisition variable to remove from the vectors.")],
    overrides: Overrides = None,
    config: ConfigFile = None,
    backbone: BackboneName = None,
    by: Annotated[str, typer.Option(help="Method: leace, residual or combat.")] = "leace",
) -> None:
    """Write vectors without an acquisition factor.

    The new vectors are stored next to the original ones and can be audited and used like them.
    """
    from pellucid.api.vector_functions import erase_factor
    from pellucid.embed.store import load_vectors

    run = erase_factor(study, factor, overrides or [], config=config, backbone=backbone, method=by)  # type: ignore[arg-type]
    stored = load_vectors(run.path)
    say(f"  {stored.name}: {len(stored.images)} images, learned from {stored.spec['learnt_from']} training patients")
    say(f"  audit it with: pellucid audit {shlex.quote(str(study))} --backbone {shlex.quote(stored.name)}")
    say_done("embed", run)


def export(
    study: StudyOrVectors,
    to: Annotated[ExportFormat, typer.Option(help="Format of the program that will read it.")],
    out: Annotated[Path, typer.Option(help="The file (projector: the folder) to write.")],
    overrides: Overrides = None,
    config: ConfigFile = None,
    backbone: BackboneName = None,
    columns: Annotated[
        str, typer.Option(help="Columns of the manifest, separated by commas. Default: the usual ones.")
    ] = "",
    keep_image_ids: Annotated[
        bool, typer.Option("--keep-image-ids", help="Name images by their paths instead of research ids.")
    ] = False,
    pictures: Annotated[bool, typer.Option(help="Add thumbnails for the projector.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
) -> None:
    """Write the vectors for other programs, by research id."""
    from pellucid.api.vector_functions import export_study

    written, *notes = export_study(
        study, to, out, overrides or [], config=config, backbone=backbone, columns=comma_separated(columns),
        keep_image_ids=keep_image_ids, pictures=pictures, overwrite=overwrite,
    )  # fmt: skip
    say(f"export: {written}")
    for sentence in notes:
        say(f"  {sentence}")
