"""The cost of a confounded training set: training sets from balanced to fully confounded, one balanced test set.

- [0]: Kömen et al., Towards Robust Foundation Models for Digital Pathology, 2025 (PathoROB): average performance drop

Two classes, two levels of the factor: four cells. Training sets of one size are drawn in which class and level are
increasingly associated, from not at all to completely. A probe is trained on each and tested on equally many patients
of all four cells. A robust embedding loses little, because a probe cannot use the device. Patients, not images, are
drawn and tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.statistics import IntArray, Patients
from pellucid.probes.estimators.ridge import fitted_probe
from pellucid.probes.inference.repeated_experiment import reach, rounds
from pellucid.probes.inference.statistic import Statistic, Target
from pellucid.probes.inputs.variables import MIN_PATIENTS
from pellucid.probes.questions.transfer import few_images, with_tested_weights

CONFOUNDING = (0.0, 0.25, 0.5, 0.75, 1.0)  # correlation of class and level in the training set
ROUNDS = 6
_TEST = 0.3  # share of the smallest cell's patients that is tested, from each cell
_MOST_PATIENTS = 300  # a cell


@dataclass(frozen=True)
class PerformanceDrop:
    """The mean over both directions in which class and level can be associated.

    Attributes:
        levels: numbers of the two levels.
        scores: AUROC on balanced patients after training at each of `CONFOUNDING`.
        average_drop: mean over the confounded ones of 1 − score / score of the balanced one, with its 95 % interval.
        n_train: training patients, the same number at each confounding.
        refusal: the reason why there is no number.
    """

    levels: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()
    average_drop: float = float("nan")
    ci_low: float = float("nan")
    ci_high: float = float("nan")
    n_train: int = 0
    refusal: str = ""


def performance_drop(
    vectors: NDArray[np.floating], target: Target, levels: IntArray, patients: Patients, seed: int = 0
) -> PerformanceDrop:
    """For the two levels whose smaller class is largest: this makes the smallest of the four cells as large as
    possible.

    The interval: Student's t with 15 degrees of freedom around the drop, its standard error from 15 balanced divisions
    of the patients into halves, each drawn, trained and tested from scratch.
    """
    if target.n_levels != 2:
        return PerformanceDrop(refusal="only for two classes")
    data = np.asarray(target.data, dtype=np.int64)
    steady = patients.constant(data) & patients.constant(levels)
    y, z = patients.typical(data), patients.typical(levels)
    counts = np.zeros((2, int(levels.max()) + 1), dtype=np.int64)
    np.add.at(counts, (y[steady], z[steady]), 1)
    best = np.argsort(-counts.min(axis=0), kind="stable")[:2]
    smallest = int(counts[:, best].min()) if len(best) == 2 else 0
    if smallest < 2 * MIN_PATIENTS:
        return PerformanceDrop(
            refusal=(
                f"the smallest of the four cells of two classes and two levels has {smallest} patients "
                f"({2 * MIN_PATIENTS} needed)"
            )
        )
    pair = np.sort(best)
    cells = [np.flatnonzero(steady & (y == a) & (z == b)) for a in (0, 1) for b in pair]
    few = few_images(patients, np.random.default_rng([seed, 1]), levels)
    statistic = Statistic.from_target(target, patients, np.array([1]))
    experiment = partial(_round, vectors, data, cells, patients, few, statistic)
    label = np.zeros(patients.n_patients, dtype=np.int64)
    for number, cell in enumerate(cells):
        label[cell] = number + 1
    whole, halved = rounds(experiment, label, ROUNDS, seed)
    scores = np.mean(whole, axis=0)
    drop = _average(scores)
    wide = reach([_average(s) for s in halved])
    if scores[0] <= target.chance or wide is None:
        return PerformanceDrop(
            refusal=f"with balanced training patients the probe is not better than chance (AUROC {scores[0]:.2f})"
        )
    return PerformanceDrop(
        tuple(int(level) for level in pair),
        tuple(float(s) for s in scores),
        drop,
        drop - wide,
        drop + wide,
        4 * _sizes(min(smallest, _MOST_PATIENTS))[1],
    )


def _average(scores: NDArray[np.float64]) -> float:
    return float(np.mean(1 - scores[1:] / scores[0]))


def _round(
    vectors: NDArray[np.floating],
    data: IntArray,
    cells: Sequence[IntArray],  # patients: class 0 at either level, class 1 at either level
    patients: Patients,
    few: NDArray[np.bool_],
    statistic: Statistic,
    among: NDArray[np.bool_],
    seed: list[int],
    penalty: float | None,
) -> tuple[NDArray[np.float64], float]:
    """(len(CONFOUNDING),) scores, and the mean penalty chosen."""
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(cell[among[cell]])[:_MOST_PATIENTS] for cell in cells]
    n_test, quarter = _sizes(min(map(len, drawn)))
    seen = _rows(patients, np.concatenate([cell[:n_test] for cell in drawn]), few)
    mask = np.zeros(len(patients), dtype=bool)
    mask[seen] = True
    tested = with_tested_weights(statistic, patients, mask)
    fit = (data == 1).astype(np.float64)[None]
    scores, penalties = np.zeros(len(CONFOUNDING)), []
    for place, share in enumerate(CONFOUNDING):
        with_level = round(quarter * (1 + share))
        sizes = (with_level, 2 * quarter - with_level)
        ways = ((0, 1, 1, 0), (1, 0, 0, 1)) if share else ((0, 1, 1, 0),)
        for way in ways:
            chosen = np.concatenate([cell[n_test : n_test + sizes[w]] for cell, w in zip(drawn, way, strict=True)])
            train = _rows(patients, chosen, few)
            weights = 1.0 / np.bincount(patients.codes[train])[patients.codes[train]]
            slope, offset, used = fitted_probe(vectors[train], weights, fit[:, train], penalty)
            penalties.append(used)
            out = np.zeros((1, len(patients)))
            out[:, seen] = slope @ np.asarray(vectors[seen], dtype=np.float64).T + offset[:, None]
            scores[place] += tested.on_half(out, mask) / len(ways)
    return scores, float(np.exp(np.mean(np.log(penalties))))


def _sizes(smallest: int) -> tuple[int, int]:
    """Per cell, the number of test patients and the mean number of training patients; smallest: patients of the
    smallest cell."""
    n_test = max(2, round(_TEST * smallest))
    quarter = (smallest - n_test) // 2  # so that two cells alone can give as many as all four
    return n_test, quarter - (quarter % 4 if quarter >= 4 else 0)  # each share of it is a whole number of patients


def _rows(patients: Patients, chosen: IntArray, few: NDArray[np.bool_]) -> IntArray:
    return np.flatnonzero(patients.images_of(chosen) & few)
