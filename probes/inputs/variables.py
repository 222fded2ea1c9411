"""One column of the user's table, ready to be probed: kind, levels, missing rows, or the reason why it cannot be
probed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.cohort.errors import UserError
from pellucid.cohort.manifest import as_numbers as numbers_of_text
from pellucid.cohort.manifest import (
    holds_lists,
    keyed_column,
    missing_cells,
    only_numbers,
    secret_digest,
    staff_word,
    taken_sentence,
    words_taken,
)
from pellucid.cohort.statistics import EventLevel, IntArray, Patients, event_level
from pellucid.cohort.study import as_level

Kind = Literal["binary", "categorical", "ordinal", "continuous", "time_to_event"]
Role = Literal["clinical", "acquisition"]
KINDS: tuple[Kind, ...] = ("binary", "categorical", "ordinal", "continuous", "time_to_event")

MIN_PATIENTS = 10  # per class; with fewer patients, the result is a sentence and not a number
MAX_LEVELS_OF_NUMBERS = 10  # a numeric column with more distinct values is continuous


@dataclass(frozen=True)
class ProbeVariable:
    """A column of the table for the probes; `usable` marks the rows that take part.

    binary, categorical: `codes` (n,) index `levels` (for binary, code 1 is the event); -1 where unusable.
    ordinal, continuous: `values` (n,) float; NaN where unusable. `codes` is empty.
    time_to_event: `values` are martingale residuals, `order` (n,) the places in time
    (`pellucid.probes.inference.concordance`).
    """

    name: str
    role: Role
    kind: Kind
    levels: tuple[str, ...]
    codes: IntArray
    values: NDArray[np.float64]
    usable: NDArray[np.bool_]
    n_missing: int
    level_patients: dict[str, int]
    notes: tuple[str, ...] = field(default=())
    refusal: str = ""  # the reason why there is no number, e.g. "too few patients (7 …)"; "" if there is one
    missing: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))  # (n,) rows without a value
    order: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    event: str = ""  # of two levels the one that counts as the event

    @property
    def is_ranked(self) -> bool:
        return self.kind in ("ordinal", "continuous", "time_to_event")

    @property
    def data(self) -> NDArray[np.generic]:
        """The column that permutations shuffle: codes or values."""
        return self.values if self.is_ranked else self.codes


def unknown_name(name: str, known: Iterable[str], what: str) -> str:
    """The error message for an unknown name, with the closest known name."""
    names = [str(k) for k in known]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f'did you mean "{close[0]}"?' if close else f"it has: {', '.join(names[:20])}."
    return f'{what} has no column "{name}"; {hint}'


def resolve_kinds(table: pd.DataFrame, names: Sequence[str] | Mapping[str, str]) -> dict[str, Kind]:
    """Kind of each column: as given by a mapping name → kind or as "name:kind", else guessed from the values."""
    given = dict(names) if isinstance(names, Mapping) else split_kinds(names, table.columns)
    kinds: dict[str, Kind] = {}
    for name in given:
        pair = time_and_event(name, table.columns)
        if name not in table.columns and pair is None:
            raise UserError(_unknown_pair(name, table.columns) or unknown_name(name, table.columns, "The table"))
        if (given[name] or ("time_to_event" if pair else "")) == "time_to_event":
            if pair is None:
                raise UserError(
                    f'Variable "{name}" has the kind time_to_event: name both columns with a slash between them, '
                    '"time/event".'
                )
            kinds[name] = "time_to_event"
            continue
        if pair is not None:
            raise UserError(f'Variable "{name}" is two columns, a time and an event: its kind is time_to_event.')
        if not given[name]:
            kinds[name] = guess_kind(table[name])
            continue
        matches = [k for k in KINDS if k == given[name]]
        if not matches:
            raise UserError(f'Variable "{name}": unknown kind "{given[name]}"; use one of {", ".join(KINDS)}, date.')
        kinds[name] = matches[0]
    return kinds


def split_kinds(names: Sequence[str], columns: Iterable[str]) -> dict[str, str]:
    """ "age:continuous" → {"age": "continuous"}; for a name alone the kind is "", to be guessed."""
    known, found = set(map(str, columns)), {}
    for name in [names] if isinstance(names, str) else names:
        head, _, tail = str(name).strip().rpartition(":")
        whole = str(name).strip() in known or not head
        found[str(name).strip() if whole else head] = "" if whole else tail
    return found


def _unknown_pair(name: str, columns: Iterable[str]) -> str:
    """The error message for "time/event" of which only one half is a column."""
    known = [str(column) for column in columns]
    halves = [half.strip() for half in name.split("/")]
    if len(halves) != 2 or not set(halves) & set(known):
        return ""
    lost = halves[0] if halves[0] not in known else halves[1]
    return unknown_name(lost, known, f'The table (asked for "{name}", a time and its event)')


def time_and_event(name: str, columns: Iterable[str]) -> tuple[str, str] | None:
    """The two columns of "time/event"; None if the name itself is a column, or one of the two is not a column."""
    known = set(map(str, columns))
    for place in (i for i, letter in enumerate(name) if letter == "/" and name not in known):
        time, event = name[:place].strip(), name[place + 1 :].strip()
        if time in known and event in known:
            return time, event
    return None


def guess_kind(column: pd.Series[Any]) -> Kind:
    """Two values: binary. Text: categorical. Numbers or dates: ordinal up to 10 distinct values, else continuous."""
    if holds_lists(column):
        return "categorical"  # `read_variable` refuses it with a sentence
    present = column[~is_missing(column, "continuous")]
    if _is_plain_text(present) and not only_numbers(present):
        present = column[~is_missing(column)]  # `none` is a level here
    n_distinct = present.nunique()
    if n_distinct <= 2:
        return "binary"
    numbers = as_numbers(present) is not None and (not _is_plain_text(present) or only_numbers(present))
    if pd.api.types.is_datetime64_any_dtype(column) or numbers:
        return "continuous" if n_distinct > MAX_LEVELS_OF_NUMBERS else "ordinal"
    if n_distinct > MAX_LEVELS_OF_NUMBERS and not isinstance(column.dtype, pd.CategoricalDtype):
        odd = present[numbers_of_text(present).isna()]
        if len(odd) < 0.1 * len(present):
            raise UserError(
                f'Variable "{column.name}" holds "{as_level(odd.iloc[0])}" among numbers; correct it, or give the '
                f"kind: {column.name}:categorical, or {column.name}:continuous once all are numbers."
            )
    return "categorical"


def _is_plain_text(column: pd.Series[Any]) -> bool:
    """Is it neither numbers nor dates nor categories?"""
    kinds = (pd.api.types.is_numeric_dtype(column), pd.api.types.is_datetime64_any_dtype(column))
    return not any(kinds) and not isinstance(column.dtype, pd.CategoricalDtype)


def is_missing(column: pd.Series[Any], kind: str = "") -> pd.Series[bool]:
    """Rows without a value; `none` is a level of text, and every category of a pandas Categorical is one."""
    return missing_cells(column, kind)


def as_numbers(present: pd.Series[Any]) -> NDArray[np.float64] | None:
    """The values as floats (dates as days); ordered categories as ranks; None if they are not numbers."""
    if isinstance(present.dtype, pd.CategoricalDtype):
        return np.asarray(present.cat.codes, dtype=np.float64) if present.cat.ordered else None
    if pd.api.types.is_datetime64_any_dtype(present):
        days = (present - pd.Timestamp("1970-01-01", tz=present.dt.tz)) / pd.Timedelta(days=1)
        return np.asarray(days, dtype=np.float64)
    if pd.api.types.is_numeric_dtype(present):
        return np.asarray(present, dtype=np.float64)
    numbers = numbers_of_text(present)
    return None if numbers.isna().any() else np.asarray(numbers, dtype=np.float64)


def read_variable(
    column: pd.Series[Any], name: str, role: Role, kind: Kind, patients: Patients, patient_ids: NDArray[np.str_],
    positive: str | EventLevel | None = None,
) -> ProbeVariable:  # fmt: skip
    """Read one column for the probes.

    positive: the level that counts as the event, of a binary variable.

    Raises UserError for a constant column, for one that is the patient id, for text where
    the kind needs numbers, and for an unknown level `positive`. Too few patients is not a user error: the reason is in
    `refusal`.
    """
    if holds_lists(column):
        raise UserError(
            f'Variable "{name}" holds lists, arrays or bytes, not one value for each image: leave it out, or write one '
            "column for each of its values."
        )
    missing = is_missing(column, kind).to_numpy()
    present = column[~missing]
    words = taken_sentence(words_taken(column, pd.Series(missing, index=column.index)))
    taken = f" Taken as no value: {words}; write another word if one is a finding." if words else ""
    if present.empty:
        raise UserError(f'Variable "{name}" is empty: no row has a value. Leave it out, or check the column.{taken}')
    if present.nunique() == 1:
        raise UserError(
            f'Variable "{name}" is constant: every row is "{as_level(present.iloc[0])}". '
            f"There is nothing to predict; leave it out.{taken}"
        )
    text = np.array([as_level(v) for v in present])
    if np.array_equal(text, patient_ids[~missing]):
        raise UserError(f'Variable "{name}" is the patient id itself; leave it out.')
    notes = []
    if missing.any():
        notes.append(
            f"{missing.sum()} of {len(column)} images ({patients.count(missing)} patients) have no value "
            f"and are excluded from this variable.{taken}"
        )
    if kind in ("ordinal", "continuous"):
        numbers = as_numbers(present)
        if numbers is None or not np.isfinite(numbers).all():
            bad = next((as_level(v) for v in present if not _is_finite_number(v)), as_level(present.iloc[0]))
            raise UserError(
                f'Variable "{name}" has the kind {kind} but contains "{bad}", which is not a number; '
                "code its order as numbers, or call it categorical."
            )
        values = np.full(len(column), np.nan)
        values[~missing] = numbers
        n = patients.count(~missing)
        refusal = "" if n >= 2 * MIN_PATIENTS else f"too few patients ({n}; {2 * MIN_PATIENTS} needed)"
        levels = tuple(as_level(v) for v in np.unique(numbers)) if kind == "ordinal" else ()
        return ProbeVariable(
            name, role, kind, levels, np.zeros(0, np.int64), values, ~missing, int(missing.sum()), {},
            tuple(notes), refusal, missing,
        )  # fmt: skip
    word = staff_word(name, role, kind) if positive is None else ""
    if word:  # keyed by what only the owner of the table knows; those of a study are keyed already
        digest = secret_digest("\0".join([*patient_ids, *text]).encode())
        text = keyed_column(pd.Series(text), word, digest).to_numpy(dtype=str)
    return _read_levels(text, missing, notes, name=name, role=role, kind=kind, patients=patients, positive=positive)


def _is_finite_number(value: object) -> bool:
    number = numbers_of_text(pd.Series([value], dtype=object)).iloc[0]
    return bool(np.isfinite(number))


def _read_levels(
    text: NDArray[np.str_],
    missing: NDArray[np.bool_],
    notes: list[str],
    *,
    name: str,
    role: Role,
    kind: Kind,
    patients: Patients,
    positive: str | EventLevel | None,
) -> ProbeVariable:
    names, inverse = np.unique(text, return_inverse=True)
    codes = np.full(len(missing), -1, dtype=np.int64)
    codes[~missing] = inverse
    if kind == "binary" and len(names) > 2:
        raise UserError(
            f'Variable "{name}" has the kind binary but {len(names)} levels '
            f"({', '.join(names[:5])}{' …' if len(names) > 5 else ''}); call it categorical or ordinal."
        )
    members = patients.codes[~missing]
    pairs = np.unique(np.column_stack([inverse, members]), axis=0)
    per_level = np.bincount(pairs[:, 0], minlength=len(names))
    n_present = len(np.unique(members))
    if len(names) == n_present and (per_level == 1).all() and n_present > 2:
        raise UserError(
            f'Variable "{name}" has a different level for each of the {n_present} patients: '
            "it identifies the patient and cannot be probed across patients; leave it out."
        )
    counts = {str(level): int(n) for level, n in zip(names, per_level, strict=True)}
    rare = [level for level, n in counts.items() if n < MIN_PATIENTS]
    event = ""
    if len(names) == 2:
        chosen = event_level(counts, name, positive)
        event = chosen.level
        notes += filter(None, [chosen.sentence(name)])
    if kind == "binary":
        order = [str(n) for n in names if n != event] + [event]
        few = min(counts, key=lambda level: counts[level])
        refusal = f"too few patients ({counts[few]} with {few}; {MIN_PATIENTS} needed)" if rare else ""
        kept = order
    else:
        kept = [str(level) for level in names if str(level) not in rare]
        refusal = ""
        if len(kept) < 2:
            largest = sorted(counts.values())[-2]
            refusal = f"too few patients ({largest} in the second largest level; {MIN_PATIENTS} needed)"
            kept = [str(level) for level in names]
        elif rare:
            shown = ", ".join(f"{level} ({counts[level]})" for level in rare[:5])
            more = f" and {len(rare) - 5} more" if len(rare) > 5 else ""
            notes.append(f"Left out, under {MIN_PATIENTS} patients: {shown}{more}.")
    position = {level: i for i, level in enumerate(kept)}
    relabel = np.array([position.get(str(level), -1) for level in names] + [-1])
    codes = relabel[codes]
    return ProbeVariable(
        name, role, kind, tuple(kept), codes, np.zeros(0), codes >= 0, int(missing.sum()), counts,
        tuple(notes), refusal, missing, event=event,
    )  # fmt: skip


def strata_of(variable: ProbeVariable, patients: Patients) -> tuple[IntArray, str]:
    """(n,) strata to compare within (-1 where unusable), and a sentence if they were made from numbers.

    Numbers become quantile strata with about 20 patients each (2 to 10 strata), unless they have at most 10
    distinct values of at least MIN_PATIENTS patients each.
    """
    if not variable.is_ranked:
        return variable.codes, ""
    usable = variable.usable
    values = variable.values[usable]
    members = patients.codes[usable]
    out = np.full(len(variable.values), -1, dtype=np.int64)
    distinct, codes = np.unique(values, return_inverse=True)
    per_level = [len(np.unique(members[codes == i])) for i in range(min(len(distinct), 11))]
    if len(distinct) <= 10 and min(per_level) >= MIN_PATIENTS:
        out[usable] = codes
        return out, ""
    n_patients = len(np.unique(members))
    n_strata = int(np.clip(n_patients // 20, 2, 10))
    typical = pd.Series(values).groupby(members).mean()
    edges = np.unique(np.quantile(typical, np.linspace(0, 1, n_strata + 1)[1:-1]))
    _, out[usable] = np.unique(np.searchsorted(edges, values, side="right"), return_inverse=True)
    n_strata = int(out.max()) + 1
    return out, (
        f"{variable.name} is {variable.kind.replace('_', ' ')}: compared within {n_strata} strata of neighbouring "
        "values, so differences within a stratum remain."
    )
