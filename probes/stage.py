"""`probe` and `audit` of a study: vectors and manifest in, `probes.json` and `audit.json` out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from pellucid.cohort.config import Config
from pellucid.cohort.errors import UserError
from pellucid.cohort.progress import track
from pellucid.cohort.runs import RunFolder, begin_run, write_json
from pellucid.cohort.statistics import EventLevel, event_level
from pellucid.cohort.study import Study
from pellucid.embed.store import load_vectors, masked_vectors
from pellucid.probes.audit import audit, probe_variables
from pellucid.probes.inputs.variables import time_and_event
from pellucid.probes.parallel import Progress
from pellucid.probes.questions.burned_in_text import text_masked
from pellucid.probes.settings import AuditSettings

PROBES_SCHEMA = "pellucid.probes/1"


class AuditConfig(Config):
    """The `audit:` section of study.yaml; `probe` uses the same."""

    permutations: int = Field(999, ge=19)  # of patients; the smallest p-value is 1 / (permutations + 1)
    folds: int = Field(5, ge=2, le=10)
    bootstrap: int = Field(400, ge=50)
    seed: int = 0
    nonlinear: bool = False  # also a probe of boosted trees: minutes for 20,000 images
    further: bool = True  # neighbours, transfer, remedies and few-label curves too
    time_to_event: list[str] = []  # pairs "time/event" of clinical variables, each audited as one


def probe_study(study: Study, scan: RunFolder, vectors: Sequence[RunFolder], *, progress: bool = True) -> RunFolder:
    """How well each variable can be predicted from the vectors of each backbone; writes `probes.json`.

    Raises:
        UserError: the study names no variables, or the vectors are not of this scan.
    """
    config = study.section("audit", AuditConfig)
    named = named_variables(study, config.time_to_event)
    with begin_run(
        study.analysis, "probe", "probe", {**config.model_dump(), **named}, [scan, *vectors], seed=config.seed
    ) as run:
        if not run.done:
            backbones = {}
            for made in vectors:
                stored = load_vectors(made.path)
                table = declared_levels(rows_of(scan, stored.images), named)
                with steps_shown(f"probing {stored.name}", progress) as step:
                    rows = probe_variables(
                        np.asarray(stored.values),
                        table,
                        patient="patient",
                        progress=step,
                        strict=False,
                        clinical=named["clinical"],
                        acquisition=named["acquisition"],
                        positive=_events(scan, named),
                        settings=AuditSettings(**_audit_options(config)),
                    )
                backbones[stored.name] = {"variables": rows, "run": made.path.name}
            write_json(run.path / "probes.json", {"schema": PROBES_SCHEMA, "backbones": backbones})
    return run


def audit_study(study: Study, scan: RunFolder, vectors: RunFolder, *, progress: bool = True) -> RunFolder:
    """The confounder audit of one backbone's vectors; writes `audit.json`.

    Raises:
        UserError: the study names no variables, or the vectors are not of this scan.
    """
    config = study.section("audit", AuditConfig)
    named = named_variables(study, config.time_to_event)
    stored = load_vectors(vectors.path)
    masked = masked_vectors(study.analysis, scan, stored)
    parents = [scan, vectors, *([masked] if masked else [])]
    with begin_run(
        study.analysis, "audit", vectors.name, {**config.model_dump(), **named}, parents, seed=config.seed
    ) as run:
        if not run.done:
            values: NDArray[np.floating[Any]] = np.asarray(stored.values)
            with steps_shown(f"auditing {stored.name}", progress) as step:
                content = audit(
                    values,
                    declared_levels(rows_of(scan, stored.images), named),
                    patient="patient",
                    progress=step,
                    strict=False,
                    clinical=named["clinical"],
                    acquisition=named["acquisition"],
                    positive=_events(scan, named),
                    **_audit_options(config),
                )
            if "taken_out" in stored.spec:
                content["notes"].append(
                    f"{stored.spec['taken_out']} was removed from these vectors; the removal was learnt on "
                    f"{stored.spec['learnt_from']} of the patients that are tested here. For its effect in new "
                    f"patients, see `remedies` in the audit of {stored.spec['derived_from']}."
                )
            if masked is not None:
                table = declared_levels(rows_of(scan, stored.images), named)
                content["text_masked"] = text_masked(
                    stored, load_vectors(masked.path), table, named, _events(scan, named),
                    config.folds, config.bootstrap, config.seed,
                )  # fmt: skip
            write_json(run.path / "audit.json", content | {"backbone": stored.name})
    return run


def _audit_options(config: AuditConfig) -> dict[str, Any]:
    """The keyword arguments of `audit`; the pairs "time/event" are among the names of the variables already."""
    return config.model_dump(exclude={"time_to_event"})


def named_variables(study: Study, pairs: Sequence[str]) -> dict[str, dict[str, str]]:
    """The variables' kinds by role, a time and its event as one; `positive`, the declared events, where there are any.

    The audit treats an outcome as a clinical variable.
    """
    kinds: dict[str, dict[str, str]] = {"clinical": {}, "acquisition": {}}
    for variable in study.variables:
        kinds["acquisition" if variable.role == "acquisition" else "clinical"][variable.name] = variable.kind
    if not study.variables:
        raise UserError(f"{study.path}: names no variables: add `clinical:` and `acquisition:` columns of the table")
    named, used = dict(kinds["clinical"]), set()
    for pair in pairs:
        both = time_and_event(pair, named)
        if both is None:
            raise UserError(
                f'{study.path}: audit.time_to_event: "{pair}" is to be "time/event", two of the clinical variables: '
                f"{', '.join(named) or 'there are none'}"
            )
        used |= {*both}
        kinds["clinical"][pair] = "time_to_event"
    kinds["clinical"] = {name: kind for name, kind in kinds["clinical"].items() if name not in used}
    positive = {v.name: v.positive for v in study.variables if v.positive is not None and v.name not in used}
    return kinds | ({"positive": positive} if positive else {})


def _events(scan: RunFolder, named: Mapping[str, Mapping[str, str]]) -> dict[str, EventLevel]:
    """The event of each binary variable among all usable images, as the source audit has it: the vectors may be of
    fewer."""
    manifest = pd.read_parquet(scan.path / "manifest.parquet")
    usable = manifest[manifest["status"] == "ok"]
    found = {}
    for name in (n for role in ("clinical", "acquisition") for n, kind in named[role].items() if kind == "binary"):
        if name in usable:
            counts = usable["patient"].groupby(usable[name].astype(object).map(str, na_action="ignore")).nunique()
            if len(counts) == 2:
                patients = {str(level): int(n) for level, n in counts.items()}
                found[name] = event_level(patients, name, named.get("positive", {}).get(name))
    return found


def rows_of(scan: RunFolder, images: pd.DataFrame) -> pd.DataFrame:
    """The manifest's rows in the order of the vectors."""
    manifest = pd.read_parquet(scan.path / "manifest.parquet").set_index("image_id")
    if not images["image_id"].isin(manifest.index).all():
        raise UserError(f"these vectors contain images that are not in {scan.path.name}: run `pellucid embed` again")
    return manifest.loc[images["image_id"]].reset_index()


def declared_levels(table: pd.DataFrame, named: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    """The table with its levels as categories: the scan has decided already which words mean "no value"."""
    kinds = {**named["clinical"], **named["acquisition"]}
    levels = [name for name, kind in kinds.items() if kind in {"binary", "categorical"} and name in table]
    return table.assign(**{name: table[name].astype(object).astype("category") for name in levels})


@contextmanager
def steps_shown(what: str, shown: bool = True) -> Iterator[Progress]:
    """The audit's callback (done, total, question) as a bar."""
    with track(what, 0, "questions", shown) as advance:
        before = 0

        def step(done: int, total: int, question: str) -> None:
            nonlocal before
            advance(done - before, total)
            before = done

        yield step
