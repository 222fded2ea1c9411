"""Which side of the split a patient stands on: a hash of patient and seed, dealt within strata where that is asked for.

The unit is a patient, or several who are bound together because they share a picture. docs/splits.md states what
moves whom.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pellucid.cohort.errors import UserError
from pellucid.cohort.manifest.research_ids import hash_share
from pellucid.cohort.study import as_level

SPLITS = ("train", "test", "external")

_MAX_LEVELS = 8  # numbers with more values than this are cut into quartiles

_MISSING = "(missing)"


def hashed_split(patient: str, test: float, seed: int) -> str:
    """`test` for about that share of all patients there could be, `train` for the others; the same answer for ever."""
    return "test" if hash_share(f"{seed}:{patient}") < test else "train"


def assign_splits(
    patients: Sequence[str],
    *,
    test: float,
    seed: int,
    column: Sequence[object] | None = None,
    column_name: str = "split",
    external: Mapping[str, tuple[Sequence[str | None], Sequence[str]]] | None = None,
    bound: Iterable[Sequence[str]] = (),
    stratify: Mapping[str, Sequence[object]] | None = None,
) -> list[str]:
    """A split for each image, whole patients only, and whole units where patients are bound together.

    Args:
        patients: the patient of each image.
        test: share of patients for `test` where no column decides.
        seed: of the hash.
        column: the table's own split of each image (train or test), instead of the hash. It is the user's word: it
            is followed even where it parts patients who are bound together.
        column_name: how to call it in a message.
        external: {factor: (level of each image, levels held out)}; a patient with any image there is external whole,
            and so is everyone bound to her (not where a column decides).
        bound: groups of patients who share a picture; each group, and groups that overlap, stand on one side.
        stratify: {variable: value of each image}, the most important first; numbers are cut into quartiles. Empty or
            None: the hash alone decides.

    Raises:
        UserError: the column has other values, or puts one patient on two sides.
    """
    unit_of = units_of(patients, () if column is not None else bound)
    units = [unit_of[patient] for patient in patients]
    away: set[str] = set()
    for values, levels in (external or {}).values():
        held_out = set(levels)
        away |= {unit for unit, value in zip(units, values, strict=True) if value in held_out}
    if column is not None:
        given = _given(patients, column, column_name)
        return ["external" if unit in away else side for unit, side in zip(units, given, strict=True)]
    inside = [i for i, unit in enumerate(units) if unit not in away]
    if stratify:
        kept = {name: [values[i] for i in inside] for name, values in stratify.items()}
        sides = _dealt(strata_of([units[i] for i in inside], kept, test), test, seed)
    else:
        sides = {unit: hashed_split(unit, test, seed) for unit in set(units) - away}
    return ["external" if unit in away else sides[unit] for unit in units]


def units_of(patients: Iterable[str], bound: Iterable[Sequence[str]]) -> dict[str, str]:
    """Patient → unit (named by its first patient, as texts sort): groups that share a patient are one unit."""
    parent = {patient: patient for patient in patients}

    def root(patient: str) -> str:
        while parent[patient] != patient:
            parent[patient] = parent[parent[patient]]
            patient = parent[patient]
        return patient

    for group in bound:
        roots = sorted({root(patient) for patient in group if patient in parent})
        for other in roots[1:]:
            parent[other] = roots[0]  # the smaller name stays the root, so that it names the unit
    return {patient: root(patient) for patient in parent}


def strata_of(units: Sequence[str], values: Mapping[str, Sequence[object]], test: float) -> dict[str, tuple[str, ...]]:
    """Stratum of each unit: its levels of the variables, in their order, cut off where too few units would share them.

    Args:
        units: unit of each image.
        values: {variable: value of each image}.
        test: share for `test`; a stratum keeps to itself when it has enough units to give one to each side, that is
            1 / min(test, 1 - test). The units of smaller ones are pooled with others that share all but their last
            level, and so on, so the variable named first is given up last.

    Returns:
        {unit: levels}; a pooled stratum ends in `*`.
    """
    levels = [unit_levels(units, column) for column in values.values()]
    share = min(test, 1 - test)
    keys = {unit: tuple(found[unit] for found in levels) for unit in dict.fromkeys(units)}

    def enough(n_units: int) -> bool:
        return n_units * share >= 1 - 1e-9

    final: dict[str, tuple[str, ...]] = {}
    for depth in range(len(levels), 0, -1):  # from the finest strata to the coarsest
        sizes = Counter(keys.values())
        final |= {unit: key for unit, key in keys.items() if enough(sizes[key])}
        keys = {unit: (*key[: depth - 1], "*") for unit, key in keys.items() if not enough(sizes[key])}
    return final | keys


def unit_levels(units: Sequence[str], values: Sequence[object]) -> dict[str, str]:
    """The level of each unit: its most frequent known value (of equally frequent ones the first, as texts sort).

    Numbers of more than eight values count by their mean over the unit's images, cut at the quartiles over units.
    What is not known of any image of the unit is a level of its own.
    """
    of_unit: dict[str, list[Any]] = {unit: [] for unit in units}
    for unit, value in zip(units, values, strict=True):
        if not pd.isna(value):  # type: ignore[call-overload]
            of_unit[unit].append(value)
    distinct = {value for known in of_unit.values() for value in known}
    if len(distinct) > _MAX_LEVELS and all(isinstance(v, (int, float, np.number)) for v in distinct):
        typical = {unit: float(np.mean(known)) for unit, known in of_unit.items() if known}
        # Edges are values that occur, so that one more patient seldom moves them.
        edges = np.unique(np.quantile(list(typical.values()), (0.25, 0.5, 0.75), method="lower"))
        level_of = {unit: f"Q{np.searchsorted(edges, value) + 1}" for unit, value in typical.items()}
    else:
        level_of = {unit: _most_frequent(map(as_level, known)) for unit, known in of_unit.items() if known}
    return {unit: level_of.get(unit, _MISSING) for unit in of_unit}


def _most_frequent(levels: Iterable[str]) -> str:
    return min(Counter(levels).items(), key=lambda found: (-found[1], found[0]))[0]


def _dealt(strata: Mapping[str, Hashable], test: float, seed: int) -> dict[str, str]:
    """In each stratum of n units the ⌊n · test + u⌋ with the smallest hashes go to `test`.

    u in [0, 1) is a hash of seed and stratum: on average over strata n · test units go to `test`, so many small strata
    do not add up to a bias, and one more unit raises the number by one or not at all (systematic sampling).
    """
    members: dict[Hashable, list[str]] = {}
    for unit, stratum in strata.items():
        members.setdefault(stratum, []).append(unit)
    sides: dict[str, str] = {}
    for stratum, units in members.items():
        n_test = math.floor(len(units) * test + hash_share(f"stratum:{seed}:{stratum!r}"))
        ranked = sorted(units, key=lambda unit: (hash_share(f"{seed}:{unit}"), unit))
        sides |= {unit: "test" if rank < n_test else "train" for rank, unit in enumerate(ranked)}
    return sides


def _given(patients: Sequence[str], column: Sequence[object], name: str) -> list[str]:
    sides = [str(value).strip().lower() for value in column]
    wrong = sorted(set(sides) - set(SPLITS))
    if wrong:
        raise UserError(f"split column `{name}`: has `{wrong[0]}`; only {', '.join(SPLITS)} are known")
    n_sides = Counter(patient for patient, _ in set(zip(patients, sides, strict=True)))
    torn = sum(n > 1 for n in n_sides.values())
    if torn:
        raise UserError(
            f"split column `{name}`: puts {torn} patient(s) on two sides; give all rows of a patient one value"
        )
    return sides
