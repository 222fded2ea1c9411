"""The audit of files: reads vectors and a table, and writes audit.json completely or not at all.

For `pellucid audit --vectors V.npy --table T.csv …`, without a study.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.cohort.errors import UserError
from pellucid.cohort.manifest import load_table
from pellucid.cohort.runs import write_json
from pellucid.cohort.runs.private_files import writes_privately
from pellucid.probes.audit import audit
from pellucid.probes.inputs.variables import unknown_name
from pellucid.probes.parallel import Progress


@writes_privately("out")
def audit_files(
    vectors: Path,
    table: Path,
    patient: str,
    clinical: Sequence[str],
    acquisition: Sequence[str],
    out: Path,
    permutations: int,
    seed: int,
    id_column: str | None,
    progress: Progress | None = None,
    *,
    positive: Mapping[str, str] | None = None,
    further: bool = True,
    nonlinear: bool = False,
) -> Path:
    """Audit a .npy file of vectors against a table and write `out`/audit.json; returns its path.

    Rows of both are in the same order, or, with `id_column`, joined: `vectors` then needs a file `<name>.ids.txt`
    in the same folder (one id per row of the vectors), or is an .npz with arrays `vectors` and `ids`. A variable may be
    written name:kind; `positive` gives the level of a binary variable that counts as the event.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{out}: the folder cannot be created ({error.strerror}); --out is the folder for audit.json"
        ) from None
    values, ids = read_vectors(vectors)
    named = [name.rpartition(":")[0] or name for name in (*clinical, *acquisition)]
    read = load_table(table)
    read.require_numbers(named, table)
    frame = read.frame.reset_index(drop=True)
    if id_column is not None:
        values, frame = join_by_id(values, ids, frame, id_column, vectors, table)
    elif ids is not None:
        _same_order(ids, frame, vectors, table)
    result = audit(
        values,
        frame,
        patient=patient,
        clinical=clinical,
        acquisition=acquisition,
        positive=positive,
        permutations=permutations,
        seed=seed,
        progress=progress,
        further=further,
        nonlinear=nonlinear,
    )
    write_json(out / "audit.json", result)
    return out / "audit.json"


def _same_order(ids: NDArray[np.str_], frame: pd.DataFrame, vectors: Path, table: Path) -> None:
    """Refuse rows whose order differs from that of the ids of the vectors; without --id the order is used as given."""
    for column in frame.columns:
        texts = frame[column].astype(str).to_numpy()
        if len(texts) == len(ids) and set(texts) == set(ids) and (texts != ids).any():
            raise UserError(
                f'{vectors}: its ids are those of the column "{column}" of {table}, in another order: give --id '
                f"{column}, and the rows are joined by it."
            )


def read_vectors(path: Path) -> tuple[NDArray[np.floating[Any]], NDArray[np.str_] | None]:
    """Vectors (memory-mapped if .npy) and their ids if there are any. Never unpickles."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; --vectors needs a .npy file (or .npz with `vectors` and `ids`).")
    try:
        loaded = np.load(path, mmap_mode="r" if path.suffix == ".npy" else None, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            beside = path.with_suffix(".ids.txt")
            ids = np.array(beside.read_text("utf-8").split("\n")) if beside.is_file() else None
            if ids is not None and ids[-1] == "":
                ids = ids[:-1]
            return loaded, ids
        if "vectors" not in loaded:
            raise UserError(f"{path}: contains {', '.join(loaded.files)}; an array named `vectors` is needed.")
        values = loaded["vectors"]
        try:
            return values, loaded["ids"].astype(str) if "ids" in loaded else None
        except ValueError:
            raise UserError(
                f"{path}: its ids are Python objects, which are not loaded for safety; save them as text: "
                "ids.astype(str)."
            ) from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: cannot be read as vectors ({error}); save them with numpy.save as a table of floats."
        ) from error


def join_by_id(
    values: NDArray[np.floating[Any]],
    ids: NDArray[np.str_] | None,
    frame: pd.DataFrame,
    id_column: str,
    vectors: Path,
    table: Path,
) -> tuple[NDArray[np.floating[Any]], pd.DataFrame]:
    """Rows of both in the vectors' order. Every vector needs its row; rows without a vector are left out."""
    if id_column not in frame.columns:
        raise UserError(unknown_name(id_column, frame.columns, f"{table}"))
    if ids is None:
        raise UserError(
            f"{vectors}: has no ids to join by; put one id per line into {vectors.with_suffix('.ids.txt').name} in the "
            "same folder, or leave --id out if the rows are in the same order."
        )
    if len(ids) != len(values):
        raise UserError(f"{vectors}: {len(values)} vectors but {len(ids)} ids; one id per vector is needed.")
    keys = frame[id_column].astype(str)
    for what, where, column in (("id", table, keys), ("id", vectors, pd.Series(ids))):
        if column.duplicated().any():
            raise UserError(f'{where}: {what} "{column[column.duplicated()].iloc[0]}" occurs more than once.')
    position = pd.Series(np.arange(len(frame)), index=keys).reindex(ids)
    if position.isna().any():
        raise UserError(
            f"{table}: {int(position.isna().sum())} of {len(ids)} vectors have no row, for example "
            f'"{ids[position.isna()][0]}" '
            f'(column "{id_column}").'
        )
    return values, frame.iloc[position.to_numpy(dtype=np.int64)].reset_index(drop=True)
