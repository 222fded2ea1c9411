"""The front door: the command line, and the few public Python names (`pellucid.audit`, `pellucid.read_image`, …)."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

# Must be set before torch is loaded: threads that spin while they wait make two processes on the same cores several
# times slower than one after the other, and a clinic's machine is rarely idle.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from pellucid.cohort.runs import RunFolder
    from pellucid.cohort.study import Study

# Public names, loaded when first used: torch alone takes seconds to import.
_PUBLIC = {
    "audit": ("pellucid.probes.audit", "audit"),
    "embed_array": ("pellucid.embed.extract.in_memory", "embed_array"),
    "embed_folder": ("pellucid.embed.extract.plain_folder", "embed_folder"),
    "load_backbone": ("pellucid.embed.backbones.backbone", "load_backbone"),
    "load_study": ("pellucid.cohort.study", "load_study"),
    "load_vectors": ("pellucid.embed.store.vectors", "load_vectors"),
    "read_image": ("pellucid.cohort.readers", "read_image"),
}


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        import importlib

        module, attribute = _PUBLIC[name]
        return getattr(importlib.import_module(module), attribute)
    if name == "__version__":
        from importlib.metadata import version

        return version("pellucid")
    raise AttributeError(f"module 'pellucid' has no attribute {name!r}")


app = typer.Typer(
    name="pellucid",
    help="Pretrain a backbone on your own clinical images, embed them, and find out what the embeddings really encode.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help answers in half the time of a decorated one
    pretty_exceptions_enable=False,
    epilog="Start with `pellucid demo`, or with `pellucid init FOLDER` in a folder of your own. "
    "Exit codes: 0 done, 2 you can mend it, 75 interrupted and safe to repeat, 1 our fault.",
)


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if version:
        typer.echo(__getattr__("__version__"))
        raise typer.Exit


StudyPath = Annotated[Path, typer.Argument(metavar="STUDY", help="study.yaml, or the folder that holds it.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Overrides of study.yaml, for example split.test=0.3 data=FOLDER."),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="A YAML file with keys of study.yaml that replace those there.")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
TextSearch = Literal["auto", "ocr", "lines"]
Masked = Literal["all", "identifying"]
Dates = Literal["shift", "remove"]
ExportFormat = Literal["parquet", "h5ad", "projector", "atlas"]
BackboneName = Annotated[
    str | None,
    typer.Option(
        "--backbone", help="pixels, run:, timm:, timm-random:, hf: or file: and a name. Default: the study's own."
    ),
]


def _study(path: Path, overrides: list[str] | None, config: Path | None = None) -> Study:
    from pellucid.cohort.study import load_study

    return load_study(path, overrides or [], config)


def _told(what: str, run: RunFolder) -> None:
    if os.environ.get("RANK", "0") == "0":  # under torchrun one voice is enough
        typer.echo(f"{what}: {'already done, nothing to do' if run.done else 'done'} → {run.path}")


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where the phantom study is written.")] = Path("demo"),
    patients: Annotated[int, typer.Option(min=20, help="Patients in the phantom cohort, 2 to 5 images each.")] = 160,
    seed: Annotated[int, typer.Option(help="Another seed, another cohort.")] = 0,
) -> None:
    """Write a phantom cohort and run everything on it."""
    from pellucid.pipeline import demo as run_demo

    run = run_demo(folder, patients=patients, seed=seed, say=typer.echo)
    typer.echo(f"\nThe report:   {run.path / 'report.html'}\nThe explorer: pellucid explore {folder}")


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Folder of the images (and, usually, the table).")],
    table: Annotated[Path | None, typer.Option(help="Clinical table: csv, tsv, xlsx or parquet.")] = None,
) -> None:
    """Draft study.yaml from a look at a folder and a table."""
    from pellucid.cohort.draft import draft_study

    path = draft_study(folder, table)
    typer.echo(path.read_text(encoding="utf-8"))
    typer.echo(f"written to {path}; read and correct it, then: pellucid scan {path}")


@app.command()
def scan(
    study: StudyPath,
    overrides: Overrides = None,
    config: ConfigFile = None,
    dask: Annotated[
        str, typer.Option(help="Address of a Dask scheduler to read with; its workers see the same folders.")
    ] = "",
) -> None:
    """Read every image once; join the table; audit the source."""
    from pellucid.cohort.scan import scan as run_scan

    run = run_scan(_study(study, overrides, config), dask=dask)
    source = run.read_json("source.json")
    for sentence in source["sentences"]:
        typer.echo(f"  {sentence}")
    for sentence in source["problems"]:
        typer.secho(f"  note: {sentence}", fg="yellow")
    _told("scan", run)


@app.command()
def deidentify(
    study: StudyPath,
    out: Annotated[Path, typer.Option(help="Folder of the copy: a new one, or one that this command made.")],
    linkage: Annotated[
        Path, typer.Option(help="File that says who is who: neither in the study nor in the copy; made if not there.")
    ],
    overrides: Overrides = None,
    config: ConfigFile = None,
    text: Annotated[
        TextSearch, typer.Option(help="Burned-in text: read (ocr), found by its form (lines), or the best installed.")
    ] = "auto",
    mask: Annotated[Masked, typer.Option(help="All text, or (with OCR) only what may identify.")] = "all",
    dates: Annotated[Dates, typer.Option(help="Shifted by the same days for all of a patient, or removed.")] = "shift",
    retain_patient: Annotated[bool, typer.Option(help="Keep sex, age (at most 90), size and weight.")] = True,
    retain_device: Annotated[bool, typer.Option(help="Keep serial numbers and station names as they are.")] = False,
) -> None:
    """Write a copy of a study that names nobody."""
    from pellucid.cohort.deidentify import deidentify_study

    done = deidentify_study(
        _study(study, overrides, config),
        out,
        linkage,
        text=text,
        mask=mask,
        dates=dates,
        retain_patient=retain_patient,
        retain_device=retain_device,
    )
    how = "read by OCR" if done.text == "ocr" else "found by its form, not read: install pellucid[privacy] for better"
    typer.echo(
        f"  {done.written} files written, {done.masked} of them with masked text ({how}); {done.refused} refused"
    )
    typer.echo(f"deidentify: {'already done, nothing to do' if done.already_done else 'done'} → {done.path}")
    typer.echo(f"look through {done.path / 'review.html'} before you hand the folder on; keep {linkage} to yourself")


@app.command()
def pretrain(
    study: StudyPath,
    overrides: Overrides = None,
    config: ConfigFile = None,
    recipe: Annotated[str | None, typer.Option(help="Recipe in configs/pretrain, or a YAML file.")] = None,
    device: Device = "auto",
    onnx: Annotated[Path | None, typer.Option(help="Also write the backbone to this ONNX file.")] = None,
) -> None:
    """Pretrain a backbone on the images, without labels; watch it in its training.html."""
    from pellucid.cohort.scan import current_scan
    from pellucid.pretrain.stage import pretrain as run_pretrain

    loaded = _study(study, [*(overrides or []), *([f"pretrain.recipe={recipe}"] if recipe else [])], config)
    if onnx is not None:
        from pellucid.pretrain.export import can_export, export_onnx

        can_export(onnx)
    run = run_pretrain(loaded, current_scan(loaded), device=device)
    _told("pretrain", run)
    if onnx is not None and os.environ.get("RANK", "0") == "0":
        export_onnx(run.path, onnx)
        typer.echo(f"onnx: done → {onnx}")


@app.command()
def embed(
    study: Annotated[
        Path, typer.Argument(metavar="STUDY|FOLDER", help="A study, or a plain folder of images with --out.")
    ],
    overrides: Overrides = None,
    config: ConfigFile = None,
    backbone: BackboneName = None,
    out: Annotated[Path | None, typer.Option(help="Where the vectors of a plain folder go.")] = None,
    device: Device = "auto",
) -> None:
    """Turn every image into a frozen vector."""
    if out is not None:
        from pellucid.cohort.errors import UserError
        from pellucid.embed.extract import embed_folder, folder_options

        if backbone is None:
            raise UserError("a folder without a study needs --backbone, for example timm-random:vit_tiny_patch16_224")
        folder, failed = embed_folder(study, backbone, out, device=device, **folder_options(overrides or []))
        if os.environ.get("RANK", "0") == "0":
            for image_id, reason in failed:
                typer.secho(f"  no vector: {image_id}: {reason}", fg="yellow")
            from pellucid.embed.store import load_vectors

            made = load_vectors(folder).values.shape
            typer.echo(f"embed: done, {made[0]:,} vectors of {made[1]} numbers → {folder}")
        return
    from pellucid.cohort.errors import UserError
    from pellucid.cohort.scan import current_scan
    from pellucid.embed.extract import EmbedConfig
    from pellucid.embed.extract import embed as run_embed
    from pellucid.pretrain.export import newest_backbone

    if study.is_dir() and not (study / "study.yaml").is_file():
        raise UserError(f"{study}: holds no study.yaml; a plain folder of images needs --out DIR")
    loaded = _study(study, overrides, config)
    scanned = current_scan(loaded)
    run = run_embed(loaded, scanned, backbone or f"run:{newest_backbone(loaded, scanned).path}", device=device)
    if os.environ.get("RANK", "0") == "0":
        for failed in run.read_json("spec.json").get("failed", []):
            typer.secho(f"  no vector: {failed['image_id']}: {failed['reason']}", fg="yellow")
        n, dim = (run.read_json("spec.json")[key] for key in ("n", "dim"))
        typer.echo(f"  {n:,} vectors of {dim} numbers")
    _told("embed", run)
    how = loaded.section("embed", EmbedConfig).patients
    if how != "none" and os.environ.get("RANK", "0") == "0":
        from pellucid.embed.extract import embed_patients

        _told("embed", embed_patients(loaded, run, how))


@app.command()
def search(
    study: Annotated[
        Path, typer.Argument(metavar="STUDY|FOLDER", help="A study, or a folder that `embed --out` made.")
    ],
    image: Annotated[
        str, typer.Argument(metavar="IMAGE", help="An image_id, an image file, or a .npy with one vector.")
    ],
    overrides: Overrides = None,
    config: ConfigFile = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many.")] = 12,
    backbone: BackboneName = None,
    same_patient: Annotated[bool, typer.Option("--same-patient", help="Show images of the same patient too.")] = False,
    exclude_patient: Annotated[
        str | None, typer.Option(help="Pass over this patient (research id): of a new image, its own.")
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="Only images with device=A, age>60, grade=2|3 …; may be repeated.")
    ] = None,
    region: Annotated[
        str | None, typer.Option(help="left,top,width,height in pixels: search by this part of the image.")
    ] = None,
    one_per_patient: Annotated[
        bool, typer.Option("--one-per-patient", help="Of each patient the nearest image only.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find the images most like one, from other patients."""
    from pellucid.embed.search import parse_region, search_image
    from pellucid.embed.store import load_vectors

    table, columns, file = None, [], None
    if (study / "vectors.npy").is_file():
        vectors = load_vectors(study)
    else:
        import pandas as pd

        from pellucid.cohort.scan import current_scan
        from pellucid.embed.store import choose_vectors

        loaded = _study(study, overrides, config)
        scanned = current_scan(loaded)
        if Path(image).is_file() and Path(image).resolve().is_relative_to(loaded.image_root):
            image = Path(image).resolve().relative_to(loaded.image_root).as_posix()  # a picture of the study itself
        file = loaded.image_root / image
        table = pd.read_parquet(scanned.path / "manifest.parquet")
        columns = [v.name for v in loaded.variables if v.role == "acquisition"]
        vectors = load_vectors(choose_vectors(loaded.analysis, scanned, backbone).path)
    passed_over = {"exclude_patient": exclude_patient} if exclude_patient else {}
    found = search_image(
        vectors, image, k, same_patient=same_patient, region=parse_region(region) if region else None, file=file,
        where=where or [], table=table, columns=columns, one_per_patient=one_per_patient, **passed_over,
    )  # fmt: skip
    hits = found.hits.drop(columns="query")
    if as_json:
        typer.echo(hits.to_json(orient="records", indent=1))
        return
    typer.echo(hits.to_string(index=False, float_format=lambda value: f"{value:.4f}"))
    for sentence in found.sentences():
        typer.echo(f"  {sentence}")


@app.command()
def near(
    study: StudyPath, overrides: Overrides = None, config: ConfigFile = None, backbone: BackboneName = None
) -> None:
    """Find the same picture under two patients, turned, mirrored or cropped, and the most unusual images."""
    from pellucid.cohort.scan import current_scan
    from pellucid.embed.near_duplicates import near as run_near
    from pellucid.embed.store import choose_vectors

    loaded = _study(study, overrides, config)
    scanned = current_scan(loaded)
    run = run_near(loaded, choose_vectors(loaded.analysis, scanned, backbone), scanned)
    for sentence in run.read_json("near.json")["sentences"]:
        typer.echo(f"  {sentence}")
    _told("near", run)


@app.command()
def cluster(
    study: StudyPath, overrides: Overrides = None, config: ConfigFile = None, backbone: BackboneName = None
) -> None:
    """Map the vectors, find clusters, test what they go with."""
    from pellucid.cohort.scan import current_scan
    from pellucid.embed.store import choose_vectors
    from pellucid.explore.clusters import cluster as run_cluster

    loaded = _study(study, overrides, config)
    scanned = current_scan(loaded)
    _told("cluster", run_cluster(loaded, choose_vectors(loaded.analysis, scanned, backbone), scanned))


@app.command()
def probe(study: StudyPath, overrides: Overrides = None, config: ConfigFile = None) -> None:
    """How well is each variable read off each backbone?"""
    from pellucid.cohort.scan import current_scan
    from pellucid.embed.store import choose_vectors, newest_vectors
    from pellucid.probes.stage import probe_study

    loaded = _study(study, overrides, config)
    scanned = current_scan(loaded)
    choose_vectors(loaded.analysis, scanned)
    _told("probe", probe_study(loaded, scanned, list(newest_vectors(loaded.analysis, scanned).values())))


@app.command("audit")
def _audit(  # `pellucid.audit` is the function of `pellucid.probes.audit`
    study: Annotated[Path | None, typer.Argument(metavar="[STUDY]", help="A study; or none, with --vectors.")] = None,
    overrides: Overrides = None,
    config: ConfigFile = None,
    backbone: BackboneName = None,
    vectors: Annotated[
        Path | None,
        typer.Option(help="Anybody's vectors: a .npy of shape (images, dimensions), or .npz with `vectors` and `ids`."),
    ] = None,
    table: Annotated[Path | None, typer.Option(help="Their table, rows in the same order (or see --id).")] = None,
    patient: Annotated[str | None, typer.Option(help="Column that names the patient.")] = None,
    clinical: Annotated[
        str, typer.Option(help="Clinical columns, separated by commas: name, name:kind, or time/event.")
    ] = "",
    acquisition: Annotated[str, typer.Option(help="Acquisition columns, separated by commas.")] = "",
    row_id: Annotated[
        str | None,
        typer.Option(
            "--id", help="Column of ids to join by; the vectors' ids lie in V.ids.txt beside V.npy, one a line."
        ),
    ] = None,
    permutations: Annotated[
        int | None, typer.Option(min=19, help="Permutations of patients (999; more where there are many pairs).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of folds, bootstrap and permutations (0).")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for audit.json.")] = None,
    nonlinear: Annotated[
        bool, typer.Option("--nonlinear", help="A probe of boosted trees beside the linear ones.")
    ] = False,
    brief: Annotated[
        bool,
        typer.Option("--brief", help="Probes and verdicts only: no transfer, neighbours, remedies. Half the time."),
    ] = False,
) -> None:
    """Do the vectors encode the disease, or the device?"""
    from pellucid.cohort.errors import UserError

    if vectors is not None:
        if study is not None and "=" in str(study):
            raise UserError(
                f"{study} changes a study.yaml; with --vectors there is none: see --permutations, --seed, --brief"
            )
        if study is not None:
            raise UserError(f"audit either the study {study} or --vectors, not both")
        from pellucid.probes.audit_files import audit_files
        from pellucid.probes.stage import steps_shown

        missing = [n for n, v in (("--table", table), ("--patient", patient), ("--out", out)) if v is None]
        if missing or table is None or patient is None or out is None:
            raise UserError(f"--vectors needs {', '.join(missing)} as well")
        columns = [[c.strip() for c in names.split(",") if c.strip()] for names in (clinical, acquisition)]
        with steps_shown(f"auditing {vectors.name}") as step:
            written = audit_files(
                vectors, table, patient, columns[0], columns[1], out, permutations or 999, seed or 0, row_id, step,
                further=not brief, nonlinear=nonlinear,
            )  # fmt: skip
        _say_audit(json.loads(written.read_text(encoding="utf-8")))
        typer.echo(
            f"audit: done → {written} (transfer, neighbours, remedies and who is missing are there: docs/audit.md)"
        )
        return
    for_arrays = {"--table": table, "--patient": patient, "--clinical": clinical, "--acquisition": acquisition,
                  "--id": row_id, "--out": out}  # fmt: skip
    misplaced = [name for name, value in for_arrays.items() if value]
    if study is not None and misplaced:
        raise UserError(f"{', '.join(misplaced)} go with --vectors; of a study, study.yaml says what is audited")
    if study is None:
        raise UserError("name a study, or give --vectors, --table, --patient, --clinical, --acquisition and --out")
    from pellucid.cohort.scan import current_scan
    from pellucid.embed.store import choose_vectors
    from pellucid.probes.stage import audit_study

    chosen = [f"audit.{k}={v}" for k, v in (("permutations", permutations), ("seed", seed)) if v is not None]
    chosen += ["audit.further=false"] * brief + ["audit.nonlinear=true"] * nonlinear
    loaded = _study(study, [*(overrides or []), *chosen], config)
    scanned = current_scan(loaded)
    run = audit_study(loaded, scanned, choose_vectors(loaded.analysis, scanned, backbone))
    _say_audit(run.read_json("audit.json"))
    _told("audit", run)


@app.command("take-out")
def take_out(
    study: StudyPath,
    factor: Annotated[str, typer.Option(help="Acquisition variable to take out of the vectors.")],
    overrides: Overrides = None,
    config: ConfigFile = None,
    backbone: BackboneName = None,
    by: Annotated[str, typer.Option(help="leace, residual or combat.")] = "leace",
) -> None:
    """Write vectors without an acquisition factor, to be audited and used beside the others."""
    from pellucid.cohort.scan import current_scan
    from pellucid.embed.store import choose_vectors, load_vectors
    from pellucid.probes.erasure import take_out as write_without
    from pellucid.probes.stage import rows_of

    loaded = _study(study, overrides, config)
    scanned = current_scan(loaded)
    made = choose_vectors(loaded.analysis, scanned, backbone)
    run = write_without(loaded, scanned, made, rows_of(scanned, load_vectors(made.path).images), factor, by)  # type: ignore[arg-type]
    stored = load_vectors(run.path)
    typer.echo(
        f"  {stored.name}: {len(stored.images)} images, learnt from {stored.spec['learnt_from']} training patients"
    )
    typer.echo(f'  look at it: pellucid audit {study} --backbone "{stored.name}"')
    _told("embed", run)


def _say_audit(content: dict[str, Any]) -> None:
    for variable in content["variables"]:
        if variable["score"] is None:
            typer.echo(f"  {variable['name']} ({variable['role']}): {variable['note']}")
        else:
            typer.echo(
                f"  {variable['name']} ({variable['role']}): {variable['metric']} {variable['score']:.3f} "
                f"({variable['ci_low']:.3f} to {variable['ci_high']:.3f}), chance {variable['chance']:.2f}, "
                f"q = {variable['q_value']:.3g}, {variable['n_patients']} patients"
            )
            if variable["note"]:
                typer.echo(f"    {variable['note']}")
    accused = {(pair["clinical"], pair["acquisition"]) for pair in content["accused"]}
    for which, head in ((True, "Read with suspicion:"), (False, "Besides:")):
        sentences = [p["sentence"] for p in content["pairs"] if ((p["clinical"], p["acquisition"]) in accused) is which]
        if sentences:
            typer.echo(f"{head if accused else 'Each clinical variable with each acquisition factor:'}")
        for said in sentences:
            typer.echo(f"  · {said}")
    for note in content["notes"]:
        typer.echo(f"note: {note}")
    for row in content.get("text_masked", {}).get("variables", []):
        typer.echo(f"  text: {row['sentence']}")


@app.command()
def report(study: StudyPath, overrides: Overrides = None, config: ConfigFile = None) -> None:
    """One self-contained HTML page of all that was found."""
    from pellucid.pipeline import report_newest

    run = report_newest(_study(study, overrides, config))
    _told("report", run)
    typer.echo(f"open {run.path / 'report.html'}")


@app.command()
def explore(
    study: StudyPath,
    overrides: Overrides = None,
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 8501,
    address: Annotated[str, typer.Option(help="Loopback only, until sign-in is set up.")] = "127.0.0.1",
) -> None:
    """Browse images, clusters and audit, on this machine."""
    from pellucid.explore.app import explore as serve

    raise typer.Exit(serve(_study(study, overrides), port, address, overrides or []))


@app.command()
def run(study: StudyPath, overrides: Overrides = None, config: ConfigFile = None, device: Device = "auto") -> None:
    """Every step in order; what is done already is kept."""
    from pellucid.pipeline import run_study

    finished = run_study(_study(study, overrides, config), device=device, say=typer.echo)
    again = " ".join(["pellucid explore", str(study), *(overrides or [])])
    typer.echo(f"\nThe report:   {finished.path / 'report.html'}\nThe explorer: {again}")


@app.command()
def export(
    study: Annotated[
        Path, typer.Argument(metavar="STUDY|FOLDER", help="A study, or a folder that `embed --out` made.")
    ],
    to: Annotated[ExportFormat, typer.Option(help="Which program is to read it.")],
    out: Annotated[Path, typer.Option(help="The file (projector: the folder) to write.")],
    overrides: Overrides = None,
    config: ConfigFile = None,
    backbone: BackboneName = None,
    columns: Annotated[
        str, typer.Option(help="Columns of the manifest, separated by commas. Default: the usual.")
    ] = "",
    keep_image_ids: Annotated[
        bool, typer.Option("--keep-image-ids", help="Call images by their paths instead of research ids.")
    ] = False,
    pictures: Annotated[bool, typer.Option(help="Small pictures for the projector.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
) -> None:
    """Write the vectors for other programs, by research ids."""
    from pellucid.embed.export import choose_folder, choose_study, export_vectors

    named = [name.strip() for name in columns.split(",") if name.strip()]
    if (study / "vectors.npy").is_file():
        chosen = choose_folder(study, named, keep_image_ids=keep_image_ids)
    else:
        from pellucid.cohort.scan import current_scan
        from pellucid.embed.store import choose_vectors

        loaded = _study(study, overrides, config)
        scanned = current_scan(loaded)
        run = choose_vectors(loaded.analysis, scanned, backbone)
        chosen = choose_study(loaded, scanned, run, named, keep_image_ids=keep_image_ids)
    said = export_vectors(chosen, to, out, overwrite=overwrite, pictures=pictures)
    typer.echo(f"export: {len(chosen.frame)} vectors of {chosen.vectors.name} → {out}")
    for sentence in said:
        typer.echo(f"  {sentence}")


@app.command()
def forget(
    study: Annotated[
        Path,
        typer.Argument(metavar="STUDY|FOLDER", help="A study, or, with --image, a folder that `embed --out` made."),
    ],
    patients: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATIENT]...",
            help="Ids as in the table, the path or the header, or research ids; overrides as KEY=VALUE.",
        ),
    ] = None,
    config: ConfigFile = None,
    image: Annotated[
        list[str] | None, typer.Option("--image", help="An image_id of the folder; may be repeated.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, it is only said what would go.")] = False,
) -> None:
    """Take patients who withdrew consent out of everything that was made of them."""
    from pellucid.cohort.errors import UserError
    from pellucid.cohort.study import StudyConfig

    if image or (study / "vectors.npy").is_file():
        if patients or not image:
            raise UserError(f"{study}: of a folder of vectors, images are forgotten by --image ID, patients of a study")
        from pellucid.embed.store import forget_in_store

        found = forget_in_store(study, image, yes=yes)
        typer.echo(f"{found['images']} vector(s) {'went' if yes else 'would go'}, {found['left']} stay")
        if not yes:
            typer.echo("nothing has been changed; repeat the command with --yes to do it (it cannot be undone)")
        return
    from pellucid.withdrawal import forget_patients

    keys = {name for name in patients or [] if name.partition("=")[0].partition(".")[0] in StudyConfig.model_fields}
    overrides = [name for name in patients or [] if "=" in name and name in keys]
    forget_patients(
        _study(study, overrides, config),
        [name for name in patients or [] if name not in overrides],
        yes=yes,
        say=typer.echo,
    )


@app.command()
def status(
    study: StudyPath,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    verify: Annotated[bool, typer.Option(help="Read every file of every run and compare its checksum.")] = False,
) -> None:
    """Which runs there are, which are stale, how their indexes search, and what to do next."""
    from pellucid.cohort.runs import verify as verify_run
    from pellucid.cohort.status import next_step, study_status

    loaded = _study(study, overrides)
    runs = study_status(loaded)
    embedded = [row for row in runs if row["stage"] == "embed" and row["state"] in {"done", "stale"}]
    if embedded:
        from pellucid.embed.index import stored_sentence  # loads FAISS

        for row in embedded:
            row["index"] = stored_sentence(Path(row["path"]))
    if as_json:
        typer.echo(json.dumps({"runs": runs}, indent=1))
        return
    colour = {"done": "green", "running": "blue", "stale": "yellow", "failed": "red"}
    for row in runs:
        typer.echo(
            f"{typer.style(row['state'].ljust(8), fg=colour[row['state']])} {row['stage'].ljust(9)} {row['name']}"
        )
        if row.get("index"):
            typer.echo(f"         search: {row['index']}")
        if verify and row["state"] in {"done", "stale"}:
            for sentence in verify_run(Path(row["path"])):
                typer.secho(f"         {sentence}", fg="red")
    typer.echo(next_step(runs, study))


def main() -> None:
    """Entry point of the `pellucid` command: errors become sentences and exit codes."""
    signal.signal(signal.SIGINT, _interrupted)
    try:
        app()
    except Exception as error:
        sys.exit(_exit_code(error))


def _interrupted(number: int, frame: object) -> None:
    typer.echo("\ninterrupted: repeat the command to continue where it stopped", err=True)
    raise SystemExit(130)


def _exit_code(error: Exception) -> int:
    from pellucid.cohort.errors import Preempted, UserError

    if isinstance(error, UserError):
        typer.secho(str(error), fg="red", err=True)
        return 2
    if isinstance(error, Preempted):
        typer.echo(str(error), err=True)
        return 75
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        typer.secho(
            "the disk is full: make room and repeat the command, it continues where it stopped", fg="red", err=True
        )
        return 2
    import traceback

    traceback.print_exception(error)
    typer.secho("this is a fault of Pellucid, not yours: please report it with the lines above", fg="red", err=True)
    return 1


if __name__ == "__main__":
    main()
