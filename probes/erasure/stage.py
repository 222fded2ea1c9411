"""Vectors with an acquisition factor taken out, written as an `embed` run of its own beside the vectors they were made from.

The remedy is learnt on training patients only. What is written is for use; whether the remedy works is the audit's question
(`remedies`, learnt and judged on different patients): an audit of the remedied vectors themselves would also judge the patients
whose factor was taken out of them.
"""

from __future__ import annotations

import hashlib
from typing import Literal, get_args

import numpy as np
import pandas as pd

from pellucid.cohort.config import did_you_mean
from pellucid.cohort.errors import UserError
from pellucid.cohort.runs import RunFolder, begin_run
from pellucid.cohort.statistics import Patients
from pellucid.cohort.study import Study
from pellucid.embed.backbones import slug
from pellucid.embed.extract import EmbedConfig
from pellucid.embed.index import build_index
from pellucid.embed.store import TAKEN_OUT, load_vectors, write_vectors
from pellucid.probes.erasure.erasers import FITS, NAMES, has_combat
from pellucid.probes.inputs.variables import MIN_PATIENTS, ProbeVariable, read_variable, resolve_kinds

Remedy = Literal["leace", "residual", "combat"]
_VERSION = 1  # of what is computed here
_LEFT_OUT = ("tokens", "failed", "dtype", "normalised", "space", "schema", "n", "dim", "taken_over")


def take_out(
    study: Study, scan: RunFolder, vectors: RunFolder, table: pd.DataFrame, factor: str, remedy: Remedy = "leace"
) -> RunFolder:
    """Write the vectors without one acquisition factor.

    Args:
        table: the manifest's rows in the order of the vectors.
        factor: an acquisition variable of the study.
        remedy: `residual` and `combat` change an image by its own level of the factor, and images without one are left out;
            `leace` changes every image alike.

    Raises:
        UserError: no such factor, too few training patients of two levels, or these vectors have a factor taken out already.
    """
    kinds = {v.name: v.kind for v in study.variables if v.role == "acquisition"}
    if factor not in kinds:
        hint = did_you_mean(factor, kinds) or f"; there are: {', '.join(kinds) or 'none'}"
        raise UserError(f"{study.path}: has no acquisition variable `{factor}`{hint}")
    if remedy not in get_args(Remedy):
        raise UserError(f"`{remedy}` is no remedy that changes vectors: write {', '.join(get_args(Remedy))}")
    if remedy == "combat" and not has_combat():
        raise UserError("ComBat needs the library combatlearn: pip install 'pellucid[combat]'")
    stored = load_vectors(vectors.path)
    if stored.spec.get("taken_out"):
        raise UserError(f"`{stored.name}` has a factor taken out already; start from the vectors as they were embedded")
    ids = table["patient"].astype(str).to_numpy(dtype=str)
    variable = read_variable(
        table[factor], name=factor, role="acquisition", kind=resolve_kinds(table, {factor: kinds[factor]})[factor],
        patients=Patients.of(ids), patient_ids=ids,
    )  # fmt: skip
    if variable.is_ranked and remedy == "combat":
        raise UserError(f"`{factor}` is {variable.kind}: ComBat needs levels; take leace or residual")
    train = variable.usable & (stored.images["split"].to_numpy() == "train")
    columns = _columns(variable)
    few = min((Patients.of(ids).count(train & side) for side in _sides(variable)), default=0)
    if variable.refusal or few < MIN_PATIENTS:
        why = variable.refusal or f"{few} training patients in the rarest level; {MIN_PATIENTS} needed"
        raise UserError(f"`{factor}` cannot be taken out: {why}")
    name = f"{stored.name}{TAKEN_OUT}{factor} ({remedy})"
    config = {"take_out": factor, "remedy": remedy, "version": _VERSION}
    with begin_run(study.analysis, "embed", slug(name), config, [scan, vectors]) as run:
        if not run.done:
            kept = np.ones(len(train), dtype=bool) if remedy == "leace" else variable.usable
            values = np.asarray(stored.values, dtype=np.float64)
            erase = FITS[remedy](values[train], columns[train], Patients.of(ids[train]).weights)
            changed = np.asarray(erase(values[kept], columns[kept]), dtype=np.float32)
            images = stored.images[kept].reset_index(drop=True)
            told = f"{stored.spec['fingerprint']} {vectors.key} {factor} {remedy} {_VERSION}"
            spec = {key: value for key, value in stored.spec.items() if key not in _LEFT_OUT} | {
                "backbone": name,
                "fingerprint": hashlib.sha256(
                    told.encode()
                ).hexdigest(),  # a linear map behind the network: another one
                "derived_from": vectors.path.name,
                "derived_space": stored.space,
                "taken_out": factor,
                "remedy": NAMES[remedy],
                "learnt_from": int(Patients.of(ids[train]).n_patients),
                "normalised": False,
                "dtype": "float32",
                "failed": [],
            }
            write_vectors(run.path, changed, images, spec)
            index = study.section("embed", EmbedConfig).index
            options = (index.recall, index.kind, index.memory_gb, images["patient"].to_numpy())
            build_index(run.path, changed, load_vectors(run.path).space, *options)
    return run


def _columns(variable: ProbeVariable) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """(n, b) an indicator of each level (all 0 where there is none), or the number itself (0 where there is none)."""
    if variable.is_ranked:
        return np.where(variable.usable, variable.values, 0.0)[:, None]
    return np.asarray(variable.codes[:, None] == np.arange(len(variable.levels)), dtype=np.float64)


def _sides(variable: ProbeVariable) -> list[np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """Images of which there must be enough: of each level; of numbers all."""
    if variable.is_ranked:
        return [variable.usable]
    return [variable.codes == level for level in range(len(variable.levels))]
