"""Commands that test what the vectors encode: probe, audit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pellucid.cli.options import BackboneName, ConfigFile, Overrides, StudyPath, comma_separated, say, say_done


def probe(study: StudyPath, overrides: Overrides = None, config: ConfigFile = None) -> None:
    """Predict each variable from the vectors of each backbone."""
    from pellucid.api.audit_functions import probe_study

    say_done("probe", probe_study(study, overrides or [], config=config))


def audit(
    study: Annotated[
        Path | None, typer.Argument(metavar="[STUDY]", help="A study; none if --vectors is given.")
    ] = None,
    overrides: Overrides = None,
    config: ConfigFile = None,
    backbone: BackboneName = None,
    vectors: Annotated[
        Path | None,
        typer.Option(help="Any vectors: .npy of shape (images, dimensions), or .npz with `vectors` and `ids`."),
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="Table for --vectors, rows in the same order (or see --id).")
    ] = None,
    patient: Annotated[str | None, typer.Option(help="Column that identifies the patient.")] = None,
    clinical: Annotated[
        str, typer.Option(help="Clinical columns, separated by commas: name, name:kind, or time/event.")
    ] = "",
    acquisition: Annotated[str, typer.Option(help="Acquisition columns, separated by commas.")] = "",
    positive: Annotated[
        list[str] | None,
        typer.Option(
            "--positive", metavar="NAME=LEVEL", help="Level of a binary column that is the event; may be repeated."
        ),
    ] = None,
    row_id: Annotated[
        str | None,
        typer.Option(
            "--id", help="Column of ids to join by; the ids of V.npy are read from V.ids.txt next to it, one per line."
        ),
    ] = None,
    permutations: Annotated[
        int | None, typer.Option(min=19, help="Permutations of patients. Default: 999, more if there are many pairs.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of folds, bootstrap and permutations. Default: 0.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for audit.json, with --vectors.")] = None,
    nonlinear: Annotated[
        bool, typer.Option("--nonlinear", help="Add a nonlinear probe (boosted trees) to the linear ones.")
    ] = False,
    brief: Annotated[
        bool,
        typer.Option(
            "--brief", help="Only probes and verdicts, without transfer, neighbours and remedies: half the time."
        ),
    ] = False,
) -> None:
    """Test whether the vectors encode the disease or the device."""
    arrays = {"--table": table, "--patient": patient, "--out": out, "--clinical": clinical,
              "--acquisition": acquisition, "--id": row_id, "--positive": positive}  # fmt: skip
    _check_options(study, vectors, arrays)
    if study is not None:
        changes = [f"audit.{k}={v}" for k, v in (("permutations", permutations), ("seed", seed)) if v is not None]
        changes += ["audit.further=false"] * brief + ["audit.nonlinear=true"] * nonlinear
        _audit_study(study, [*(overrides or []), *changes], config, backbone)
    elif vectors is not None and table is not None and patient is not None and out is not None:
        _audit_arrays(
            vectors, table, patient, (comma_separated(clinical), comma_separated(acquisition)), out,
            permutations or 999, seed or 0, row_id, positive=_levels(positive or []), further=not brief,
            nonlinear=nonlinear,
        )  # fmt: skip


def _check_options(study: Path | None, vectors: Path | None, arrays: Mapping[str, object]) -> None:
    """Refuse a mixture of the two forms, `audit STUDY` and `audit --vectors …`, and an incomplete second one.

    Args:
        arrays: options that belong to --vectors, and their values; the first three are required.
    """
    from pellucid.cohort.errors import UserError

    if vectors is None and study is None:
        raise UserError("name a study, or give --vectors, --table, --patient, --clinical, --acquisition and --out")
    if vectors is None:
        if misplaced := [name for name, value in arrays.items() if value]:
            raise UserError(
                f"{', '.join(misplaced)}: only valid with --vectors; the columns of a study are declared in study.yaml"
            )
        return
    if study is not None and "=" in str(study):
        raise UserError(
            f"{study}: overrides apply to study.yaml and cannot be used with --vectors; "
            "use --permutations, --seed or --brief"
        )
    if study is not None:
        raise UserError(f"name the study {study} or give --vectors, not both")
    if missing := [name for name in list(arrays)[:3] if arrays[name] is None]:
        raise UserError(f"--vectors needs {', '.join(missing)} as well")


def _audit_study(study: Path, overrides: list[str], config: Path | None, backbone: str | None) -> None:
    from pellucid.api.audit_functions import audit_study

    run = audit_study(study, overrides, config=config, backbone=backbone)
    _say_findings(run.read_json("audit.json"))
    say_done("audit", run)


def _audit_arrays(
    vectors: Path,
    table: Path,
    patient: str,
    columns: tuple[list[str], list[str]],
    out: Path,
    permutations: int,
    seed: int,
    row_id: str | None,
    *,
    positive: dict[str, str],
    further: bool,
    nonlinear: bool,
) -> None:
    """`columns` are the clinical and the acquisition columns."""
    from pellucid.probes.audit_files import audit_files
    from pellucid.probes.stage import steps_shown

    with steps_shown(f"auditing {vectors.name}") as step:
        written = audit_files(
            vectors,
            table,
            patient,
            *columns,
            out,
            permutations,
            seed,
            row_id,
            step,
            positive=positive,
            further=further,
            nonlinear=nonlinear,
        )
    _say_findings(json.loads(written.read_text(encoding="utf-8")))
    say(f"audit: done → {written} (also holds transfer, neighbours, remedies and missing patients: docs/audit.md)")


def _levels(given: list[str]) -> dict[str, str]:
    """`NAME=LEVEL`, repeated, as {name: level}."""
    from pellucid.cohort.errors import UserError

    for text in given:
        if not all(text.partition("=")):
            raise UserError(f"--positive {text}: write NAME=LEVEL, for example --positive diagnosis=malignant")
    return {text.partition("=")[0].strip(): text.partition("=")[2].strip() for text in given}


def _say_findings(content: dict[str, Any]) -> None:
    for variable in content["variables"]:
        if variable["score"] is None:
            say(f"  {variable['name']} ({variable['role']}): {variable['note']}")
            continue
        say(
            f"  {variable['name']} ({variable['role']}): {variable['metric']} {variable['score']:.3f} "
            f"({variable['ci_low']:.3f} to {variable['ci_high']:.3f}), chance {variable['chance']:.2f}, "
            f"q = {variable['q_value']:.3g}, {variable['n_patients']} patients"
        )
        if variable["note"]:
            say(f"    {variable['note']}")
    flagged = {(pair["clinical"], pair["acquisition"]) for pair in content["accused"]}
    for which, head in ((True, "Possible confounding:"), (False, "Other pairs:")):
        sentences = [p["sentence"] for p in content["pairs"] if ((p["clinical"], p["acquisition"]) in flagged) is which]
        if sentences:
            say(head if flagged else "Each clinical variable with each acquisition factor:")
        for sentence in sentences:
            say(f"  · {sentence}")
    for note in content["notes"]:
        say(f"note: {note}")
    for row in content.get("text_masked", {}).get("variables", []):
        say(f"  text: {row['sentence']}")
