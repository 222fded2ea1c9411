"""Does the clinical variable survive a change of the acquisition factor? Train on the other levels, test on the one
left out.

A drop alone is not evidence: a probe trained on fewer or on other patients is worse anyway. Therefore the level that is
left out is also cross-validated separately, with training sets of the same size and the same shares of the clinical
classes as those taken from the other levels, and both probes are tested on the same patients. The remaining difference
is due to the change of level.

- [0]: Leek et al., Tackling the widespread and critical impact of batch effects, 2010, for the question

Legend: n images, d dimensions, c targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.statistics import IntArray, Patients, deal_folds
from pellucid.probes.estimators.ridge import fitted_probe, fold_probes
from pellucid.probes.inference.repeated_experiment import reach, rounds
from pellucid.probes.inference.statistic import Statistic, Target, comparable_events, fold_label
from pellucid.probes.inputs.variables import MIN_PATIENTS

ROUNDS = 2  # of folds and draws for the estimate, and one for each half sample
_FOLDS = 5
_MOST_PATIENTS = 400  # a level; more would cost minutes and narrow the interval by little
_MOST_IMAGES = 3  # a patient
_MOST_LEVELS = 4  # the largest; each is left out in turn


@dataclass(frozen=True)
class Transfer:
    """The mean over the levels that could be left out.

    Attributes:
        levels: numbers of these levels.
        within: score in a level of a probe that was trained in the same level.
        across: score of a probe that was trained on as many patients of the other levels.
        drop: within − across, with its 95 % interval.
        by_level: (within, across) of each level.
        refusal: the reason why there is no number.
    """

    levels: tuple[int, ...] = ()
    within: float = float("nan")
    across: float = float("nan")
    drop: float = float("nan")
    ci_low: float = float("nan")
    ci_high: float = float("nan")
    by_level: tuple[tuple[float, float], ...] = ()
    refusal: str = ""


@dataclass(frozen=True)
class _Level:
    """One level left out: its patients, the patients without an image of it, and the classes both sides have."""

    number: int
    rows: NDArray[np.bool_]  # (n,) images of the level
    inside: NDArray[np.bool_]  # (p,)
    outside: NDArray[np.bool_]  # (p,)
    columns: IntArray


def transfer(
    vectors: NDArray[np.floating], target: Target, levels: IntArray, patients: Patients, seed: int = 0
) -> Transfer:
    """Leave-one-level-out compared with controls of the same size from within the level.

    Args:
        vectors: (n, d).
        target: the clinical variable.
        levels: (n,) of the acquisition factor, from 0.

    The interval is Student's t with 15 degrees of freedom around the drop; its standard error comes from 15 balanced
    divisions of the patients into two halves, each of which is drawn, trained and tested from scratch.
    """
    few = few_images(patients, np.random.default_rng([seed, 1]), levels)
    label = patients.typical(fold_label(target, patients))
    eligible = _levels(target, label, levels, patients)
    if len(eligible) > _MOST_LEVELS:
        largest = sorted(eligible, key=lambda level: -int(level.inside.sum()))[:_MOST_LEVELS]
        eligible = sorted(largest, key=lambda level: level.number)
    if not eligible:
        each = f"{MIN_PATIENTS} patients of each class"
        if target.n_levels == 0:
            each = f"{MIN_PATIENTS} patients with the event" if target.is_time else f"{2 * MIN_PATIENTS} patients"
        return Transfer(refusal=f"no level, and all others together, have {each}")
    experiment = partial(_round, vectors, target, eligible, patients, label, few)
    whole, halved = rounds(experiment, label, ROUNDS, seed)
    scores = np.nanmean(whole, axis=0)  # (levels, 2)
    within, across = (float(x) for x in scores.mean(axis=0))
    drop = within - across
    found = Transfer(
        tuple(level.number for level in eligible),
        within,
        across,
        drop,
        by_level=tuple((float(a), float(b)) for a, b in scores),
    )
    wide = reach([_mean_drop(scores) for scores in halved])
    return found if wide is None else replace(found, ci_low=drop - wide, ci_high=drop + wide)


def _mean_drop(scores: NDArray[np.float64]) -> float:
    return float((scores[:, 0] - scores[:, 1]).mean())


def _levels(target: Target, label: IntArray, levels: IntArray, patients: Patients) -> list[_Level]:
    """The levels that can be left out."""
    found = []
    for number in range(int(levels.max()) + 1):
        rows = levels == number
        inside = np.zeros(patients.n_patients, dtype=bool)
        inside[patients.codes[rows]] = True
        outside = ~inside
        if target.n_levels == 0:
            enough = min(inside.sum(), outside.sum()) >= 2 * MIN_PATIENTS
            if target.is_time:
                sides = (rows, patients.images_of(np.flatnonzero(outside)))
                enough &= all(comparable_events(target, patients, side) >= MIN_PATIENTS for side in sides)
            columns = np.zeros(1 if enough else 0, dtype=np.int64)
            if not enough:
                continue
        else:
            counts = [np.bincount(label[side], minlength=target.n_levels) for side in (inside, outside)]
            columns = np.flatnonzero(np.minimum(*counts) >= MIN_PATIENTS)
            if len(columns) < 2:
                continue
            if target.n_levels == 2:
                columns = np.array([1])
        found.append(_Level(number, rows, inside, outside, columns.astype(np.int64)))
    return found


def few_images(patients: Patients, rng: np.random.Generator, levels: IntArray) -> NDArray[np.bool_]:
    """(n,) at most three images of each patient and level, chosen at random."""
    cell = np.unique(patients.codes * (int(levels.max()) + 1) + levels, return_inverse=True)[1]
    order = np.lexsort((rng.random(len(patients)), cell))
    place = np.empty(len(patients), dtype=np.int64)
    place[order] = np.arange(len(patients)) - np.searchsorted(cell[order], cell[order])
    return np.asarray(place < _MOST_IMAGES)


def with_tested_weights(statistic: Statistic, patients: Patients, rows: NDArray[np.bool_]) -> Statistic:
    """The statistic in which each patient has weight 1 over the tested images."""
    codes = patients.codes[rows]
    weights = np.zeros(len(patients))
    weights[rows] = 1.0 / np.bincount(codes, minlength=patients.n_patients)[codes]
    return replace(statistic, weights=weights)


def _round(
    vectors: NDArray[np.floating],
    target: Target,
    eligible: Sequence[_Level],
    patients: Patients,
    label: IntArray,  # (p,)
    few: NDArray[np.bool_],  # (n,)
    among: NDArray[np.bool_],  # (p,) patients that take part
    seed: list[int],
    penalty: float | None,
) -> tuple[NDArray[np.float64], float]:
    """(levels, 2) scores within and across, and the mean penalty chosen."""
    rng = np.random.default_rng(seed)
    scores, penalties = np.full((len(eligible), 2), np.nan), []
    for place, level in enumerate(eligible):
        inside = _at_most(level.inside & among, _MOST_PATIENTS, rng)
        folds = np.full(patients.n_patients, -1, dtype=np.int64)
        folds[inside] = deal_folds(label[inside], _FOLDS, rng)
        own, others = _same_size(inside, np.flatnonzero(level.outside & among), label, rng)
        rows = level.rows & few & (folds[patients.codes] >= 0)
        if len(own) < _FOLDS or not rows.any():
            continue
        others = others[
            deal_folds(label[others], _FOLDS, rng) > 0
        ]  # as many as the training patients of each fold within
        statistic = with_tested_weights(Statistic.from_target(target, patients, level.columns), patients, rows)
        test = np.flatnonzero(rows)
        fit = statistic.targets(np.arange(len(patients))[None])
        test_vectors, test_folds = np.asarray(vectors[test], dtype=np.float64), folds[patients.codes[test]]
        within = np.zeros((len(fit), len(test)))
        train, weights = _training_rows(patients, own, few & level.rows)
        probes = fold_probes(vectors[train], weights, fit[:, train], folds[patients.codes[train]], _FOLDS, penalty)
        for fold, (slope, offset, used) in enumerate(probes):
            here = test_folds == fold
            within[:, here] = slope @ test_vectors[here].T + offset[:, None]
            penalties.append(used)
        train, weights = _training_rows(patients, others, few & ~level.rows)
        slope, offset, used = fitted_probe(vectors[train], weights, fit[:, train], penalty)
        penalties.append(used)
        across = slope @ test_vectors.T + offset[:, None]
        scores[place] = [statistic.reordered(test).observed(side) for side in (within, across)]
    return scores, float(np.exp(np.mean(np.log(penalties)))) if penalties else 1.0


def _training_rows(
    patients: Patients, chosen: IntArray, rows: NDArray[np.bool_]
) -> tuple[IntArray, NDArray[np.float64]]:
    """The chosen patients' images among the rows, and their weights."""
    train = np.flatnonzero(patients.images_of(chosen) & rows)
    codes = patients.codes[train]
    return train, 1.0 / np.bincount(codes, minlength=patients.n_patients)[codes]


def _same_size(own: IntArray, others: IntArray, label: IntArray, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """Equally many patients of each class from both sides, drawn at random."""
    pair: tuple[list[IntArray], list[IntArray]] = ([], [])
    for value in np.unique(label[own]):
        sides = [side[label[side] == value] for side in (own, others)]
        size = min(map(len, sides))
        for chosen, side in zip(pair, sides, strict=True):
            chosen.append(rng.permutation(side)[:size])
    return np.concatenate(pair[0]), np.concatenate(pair[1])


def _at_most(patients: NDArray[np.bool_], most: int, rng: np.random.Generator) -> IntArray:
    found = np.flatnonzero(patients)
    return found if len(found) <= most else np.sort(rng.choice(found, most, replace=False))
