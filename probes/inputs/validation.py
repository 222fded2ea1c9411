"""Checks vectors, patient ids and variables, with a sentence for each mistake.

The first step of `pellucid.probes.audit`; nothing is computed before all checks have passed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.cohort.errors import UserError
from pellucid.cohort.manifest import as_ids, taken_sentence, words_taken
from pellucid.cohort.statistics import EventLevel, Patients
from pellucid.probes.inputs.dated_variables import with_dates
from pellucid.probes.inputs.time_to_event import read_time_to_event
from pellucid.probes.inputs.variables import (
    Kind,
    ProbeVariable,
    Role,
    read_variable,
    resolve_kinds,
    unknown_name,
)

LARGEST = 1e18  # squares of larger numbers are infinite in float32
Names = Sequence[str] | Mapping[str, str]  # columns, or column → kind


class AuditInput:
    """The checked input: patients, variables and notes for the reader."""

    def __init__(self, patients: Patients, variables: list[ProbeVariable], notes: list[str]) -> None:
        self.patients, self.variables, self.notes = patients, variables, notes

    @classmethod
    def from_table(
        cls, vectors: NDArray[np.floating], table: pd.DataFrame, patient: str, clinical: Names, acquisition: Names,
        strict: bool, positive: Mapping[str, str | EventLevel] | None = None,
    ) -> AuditInput:  # fmt: skip
        if not isinstance(table, pd.DataFrame):
            raise UserError(
                f"The table is a {type(table).__name__}; a pandas DataFrame with one row per image is needed."
            )
        if not isinstance(vectors, np.ndarray):
            raise UserError(
                f"The vectors are a {type(vectors).__name__}; a NumPy array with one row per image is needed."
            )
        vectors = _plain(vectors)
        _check_vectors(vectors, len(table))
        table, clinical, acquisition = _plain_frame(table), _text_names(clinical), _text_names(acquisition)
        table, clinical = with_dates(table, clinical)
        table, acquisition = with_dates(table, acquisition)
        patient = str(patient)
        if patient not in table.columns:
            raise UserError(unknown_name(patient, table.columns, "The table"))
        if not clinical and not acquisition:
            raise UserError("No variable was named: name at least one clinical variable or acquisition factor.")
        clinical, acquisition = resolve_kinds(table, clinical), resolve_kinds(table, acquisition)
        both = [name for name in clinical if name in acquisition]
        if both:
            raise UserError(f'"{both[0]}" is named both clinical and acquisition; a variable has one role.')
        named = [*clinical, *acquisition]
        events = _declared_events(positive or {}, clinical | acquisition)
        if patient in named:
            raise UserError(f'"{patient}" is the patient column; it cannot be a variable as well.')
        ids = as_ids(table[patient])
        if ids.isna().any():
            row = int(np.flatnonzero(ids.isna())[0])
            words = taken_sentence(words_taken(table[patient], ids.isna()))
            shown = f", or a word for it: {words}" if words else ""
            raise UserError(
                f'Column "{patient}": {int(ids.isna().sum())} of {len(ids)} rows have no patient id (the first is row '
                f"{row + 1}{shown}). Every image needs one: images of one patient are not independent."
            )
        text = ids.astype(str).to_numpy(dtype=str)
        patients = Patients.from_ids(text)
        if patients.n_patients == 1:
            raise UserError(f'Column "{patient}" contains one patient only; at least two are needed.')
        variables, mistakes = [], []
        for role, names in (("clinical", clinical), ("acquisition", acquisition)):
            for name, kind in names.items():
                try:
                    if kind == "time_to_event":
                        variables.append(read_time_to_event(table, name, role, patients))  # type: ignore[arg-type]
                        continue
                    column, event = table[name], events.get(name)
                    variables.append(read_variable(column, name, role, kind, patients, text, event))  # type: ignore[arg-type]
                except UserError as mistake:
                    mistakes.append(str(mistake))
                    variables.append(_refused(name, role, kind, len(table), str(mistake)))  # type: ignore[arg-type]
        if mistakes and strict:
            raise UserError("\n".join(mistakes))
        notes = []
        if not clinical or not acquisition:
            notes.append(
                f"No {'acquisition factor' if clinical else 'clinical variable'} was named: there are no pairs to test."
            )
        if patients.n_patients == len(table):
            notes.append(
                "Every image has a different patient id. If patients have several images, all intervals and p-values "
                "are too optimistic."
            )
        return cls(patients, variables, notes)


def _plain(vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    """A matrix as an array; refused are masked values, which the probes would take for numbers."""
    if isinstance(vectors, np.ma.MaskedArray):
        if np.ma.getmaskarray(vectors).any():
            raise UserError(
                f"The vectors are a masked array with {int(np.ma.getmaskarray(vectors).sum())} masked values; fill "
                "them or leave those images out."
            )
        return np.asarray(vectors.data)
    return np.asarray(vectors)


def _plain_frame(table: pd.DataFrame) -> pd.DataFrame:
    """The table with text as column names and rows from 0.

    Raises:
        UserError: a name occurs twice.
    """
    names = [str(name) for name in table.columns]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(f'The table has several columns called "{repeated[0]}"; rename or remove all but one.')
    return table.set_axis(names, axis=1).reset_index(drop=True)


def _text_names(names: Names | None) -> Names:
    """Column names as text, whatever they are in the table; None names none."""
    if names is None:
        return []
    if isinstance(names, Mapping):
        return {str(name): kind for name, kind in names.items()}
    return [names] if isinstance(names, str) else [str(name) for name in names]


def _declared_events(
    positive: Mapping[str, str | EventLevel], kinds: Mapping[str, Kind]
) -> dict[str, str | EventLevel]:
    """`positive` with every level as text, or a sentence: it names no variable, or one that is not binary."""
    for name in positive:
        if name not in kinds:
            raise UserError(f'positive names "{name}", which is neither clinical nor acquisition: {", ".join(kinds)}.')
        if kinds[name] != "binary":
            raise UserError(f'positive names "{name}", which is {kinds[name]}; only a binary variable has an event.')
    return {name: level if isinstance(level, EventLevel) else str(level) for name, level in positive.items()}


def _refused(name: str, role: Role, kind: Kind, n: int, why: str) -> ProbeVariable:
    return ProbeVariable(
        name, role, kind, (), np.full(n, -1), np.full(n, np.nan), np.zeros(n, dtype=bool), 0, {}, (), why
    )  # fmt: skip


def _check_vectors(vectors: NDArray[np.floating], n_rows: int) -> None:
    if (
        vectors.ndim != 2
        or not (np.issubdtype(vectors.dtype, np.floating) or np.issubdtype(vectors.dtype, np.integer))
        or 0 in vectors.shape
    ):
        raise UserError(
            f"The vectors have shape {vectors.shape} and type {vectors.dtype}; a table of numbers is needed, "
            "one row per image."
        )
    if len(vectors) != n_rows:
        raise UserError(
            f"There are {len(vectors)} vectors but {n_rows} rows in the table; they must be the same images in the "
            "same order (or be joined by an id column)."
        )
    if len(vectors) > 1 and all(
        (vectors[first : first + 8192] == vectors[0]).all() for first in range(0, len(vectors), 8192)
    ):
        raise UserError("All vectors are identical: there is nothing to audit.")
    bad: list[int] = []
    for first in range(0, len(vectors), 8192):
        rows = vectors[first : first + 8192]
        finite = np.isfinite(rows).all(axis=1)
        if np.abs(rows[finite], dtype=np.float64).max(initial=0) > LARGEST:
            raise UserError(f"The vectors contain values above {LARGEST:.0e}: divide all by one number first.")
        bad.extend((first + np.flatnonzero(~finite)).tolist())
    if bad:
        raise UserError(
            f"{len(bad)} of {len(vectors)} vectors contain NaN or infinite values (the first is row {bad[0] + 1}); "
            "embed those images again, or leave them out."
        )
