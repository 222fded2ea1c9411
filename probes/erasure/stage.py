"""`take-out`: vectors without an acquisition factor, written as a separate `embed` run.

The remedy is learnt on training patients only. These vectors are for use; the audit answers whether the remedy works
(`remedies`, learnt and tested on different patients). An audit of the changed vectors would also test the patients that
the remedy was learnt on.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.cohort.config import did_you_mean
from pellucid.cohort.errors import UserError
from pellucid.cohort.runs import RunFolder, begin_run
from pellucid.cohort.statistics import Patients
from pellucid.cohort.study import Study
from pellucid.embed.backbones import backbone_slug
from pellucid.embed.extract import EmbedConfig
from pellucid.embed.index import build_index
from pellucid.embed.store import TAKEN_OUT, Vectors, load_vectors, write_vectors
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
        remedy: `residual` and `combat` change an image by the image's level of the factor and leave out images without
            one; `leace` applies the same change to every image.

    Raises:
        UserError: no such factor, too few training patients of two levels, or a factor was already removed from these
            vectors.
    """
    kind = _factor_kind(study, factor, remedy)
    stored = load_vectors(vectors.path)
    if stored.spec.get("taken_out"):
        raise UserError(
            f"a factor was already removed from `{stored.name}`; start from the vectors as they were embedded"
        )
    ids = table["patient"].astype(str).to_numpy(dtype=str)
    variable = read_variable(
        table[factor], name=factor, role="acquisition", kind=resolve_kinds(table, {factor: kind})[factor],
        patients=Patients.from_ids(ids), patient_ids=ids,
    )  # fmt: skip
    train = variable.usable & (stored.images["split"].to_numpy() == "train")
    _check_training_patients(variable, Patients.from_ids(ids), train, remedy)
    name = f"{stored.name}{TAKEN_OUT}{factor} ({remedy})"
    config = {"take_out": factor, "remedy": remedy, "version": _VERSION}
    with begin_run(study.analysis, "embed", backbone_slug(name), config, [scan, vectors]) as run:
        if not run.done:
            kept = np.ones(len(train), dtype=bool) if remedy == "leace" else variable.usable
            columns = _columns(variable)
            values = np.asarray(stored.values, dtype=np.float64)
            learnt_from = Patients.from_ids(ids[train])
            erase = FITS[remedy](values[train], columns[train], learnt_from.weights)
            changed = np.asarray(erase(values[kept], columns[kept]), dtype=np.float32)
            spec = _spec(stored, vectors, name, factor, remedy, learnt_from.n_patients)
            _write(run, study, changed, stored.images[kept].reset_index(drop=True), spec)
    return run


def _factor_kind(study: Study, factor: str, remedy: str) -> str:
    """The kind of the factor in study.yaml, or a sentence: no such factor, or no such remedy."""
    kinds = {v.name: v.kind for v in study.variables if v.role == "acquisition"}
    if factor not in kinds:
        hint = did_you_mean(factor, kinds) or f"; there are: {', '.join(kinds) or 'none'}"
        raise UserError(f"{study.path}: has no acquisition variable `{factor}`{hint}")
    if remedy not in get_args(Remedy):
        raise UserError(f"`{remedy}` is not a remedy that changes vectors: write {', '.join(get_args(Remedy))}")
    if remedy == "combat" and not has_combat():
        raise UserError("ComBat needs the library combatlearn: pip install 'pellucid[combat]'")
    return kinds[factor]


def _check_training_patients(
    variable: ProbeVariable, patients: Patients, train: np.ndarray[tuple[int], np.dtype[np.bool_]], remedy: str
) -> None:
    """Refuse a factor that the remedy cannot be learnt for."""
    if variable.is_ranked and remedy == "combat":
        raise UserError(f"`{variable.name}` is {variable.kind}: ComBat needs levels; use leace or residual")
    few = min((patients.count(train & side) for side in _sides(variable)), default=0)
    if variable.refusal or few < MIN_PATIENTS:
        why = variable.refusal or f"{few} training patients in the rarest level; {MIN_PATIENTS} needed"
        raise UserError(f"`{variable.name}` cannot be removed: {why}")


def _spec(
    stored: Vectors, vectors: RunFolder, name: str, factor: str, remedy: Remedy, learnt_from: int
) -> dict[str, Any]:
    """The content of spec.json. The fingerprint differs from that of the original vectors: a linear map follows the
    network."""
    parts = f"{stored.spec['fingerprint']} {vectors.key} {factor} {remedy} {_VERSION}"
    return {key: value for key, value in stored.spec.items() if key not in _LEFT_OUT} | {
        "backbone": name,
        "fingerprint": hashlib.sha256(parts.encode()).hexdigest(),
        "derived_from": vectors.path.name,
        "derived_space": stored.space,
        "taken_out": factor,
        "remedy": NAMES[remedy],
        "learnt_from": learnt_from,
        "normalised": False,
        "dtype": "float32",
        "failed": [],
    }


def _write(
    run: RunFolder, study: Study, values: NDArray[np.float32], images: pd.DataFrame, spec: dict[str, Any]
) -> None:
    """Vectors and search index."""
    write_vectors(run.path, values, images, spec)
    index = study.section("embed", EmbedConfig).index
    options = (index.recall, index.kind, index.memory_gb, images["patient"].to_numpy())
    build_index(run.path, values, load_vectors(run.path).space, *options)


def _columns(variable: ProbeVariable) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """(n, b) an indicator of each level (all 0 where missing), or the number itself (0 where missing)."""
    if variable.is_ranked:
        return np.where(variable.usable, variable.values, 0.0)[:, None]
    return np.asarray(variable.codes[:, None] == np.arange(len(variable.levels)), dtype=np.float64)


def _sides(variable: ProbeVariable) -> list[np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """Groups of images that need enough patients: each level; of a number, all images."""
    if variable.is_ranked:
        return [variable.usable]
    return [variable.codes == level for level in range(len(variable.levels))]
