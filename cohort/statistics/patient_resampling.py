"""Patients as the unit of evidence: folds, weights, bootstrap and permutations that always move whole patients.

Everything the probes resample comes from here, so that no estimate, interval or p-value can count images
where it should count patients. Nothing in this file looks at an embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Patients:
    """Which patient each image (row) belongs to.

    `codes` (n,) holds 0 … n_patients-1, numbered in order of the sorted patient ids, so that the resampling
    drawn from a seed does not depend on the order of the rows' patients.
    """

    codes: IntArray
    n_patients: int

    @classmethod
    def from_ids(cls, ids: NDArray[np.object_] | NDArray[np.str_] | NDArray[np.int64]) -> Patients:
        """Number the patients of an array of ids, one id per row; ids are compared as text."""
        _, codes = np.unique(np.asarray(ids).astype(str), return_inverse=True)
        return cls(codes.astype(np.int64), int(codes.max()) + 1 if len(codes) else 0)

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def sizes(self) -> IntArray:
        """Images per patient, (n_patients,)."""
        return np.bincount(self.codes, minlength=self.n_patients).astype(np.int64)

    @property
    def weights(self) -> FloatArray:
        """One weight per image, (n,): 1 / images of that patient, so that every patient weighs 1 in total."""
        return 1.0 / self.sizes[self.codes]

    def subset(self, rows: NDArray[np.bool_]) -> Patients:
        """The patients of the rows kept, renumbered without gaps (the order of patients is kept)."""
        _, codes = np.unique(self.codes[rows], return_inverse=True)
        return Patients(codes.astype(np.int64), int(codes.max()) + 1 if len(codes) else 0)

    def count(self, rows: NDArray[np.bool_]) -> int:
        """How many patients have at least one of these rows."""
        return len(np.unique(self.codes[rows]))

    def images_of(self, chosen: IntArray) -> NDArray[np.bool_]:
        """(n,) which rows belong to the patients chosen."""
        taken = np.zeros(self.n_patients, dtype=bool)
        taken[chosen] = True
        return np.asarray(taken[self.codes])

    def constant(self, values: NDArray[np.generic]) -> NDArray[np.bool_]:
        """For each patient whether all rows of the patient have the same value, (n_patients,)."""
        first = np.full(self.n_patients, -1, dtype=np.int64)
        first[self.codes[::-1]] = np.arange(len(self.codes))[::-1]
        differs = values != values[first[self.codes]]
        return ~(np.bincount(self.codes, weights=differs, minlength=self.n_patients) > 0)

    def typical(self, levels: IntArray) -> IntArray:
        """The most frequent level of each patient, (n_patients,); of equally frequent ones the rarer overall.

        Only used to deal folds evenly: a patient with one image of a rare level should count towards that level.
        """
        n_levels = int(levels.max()) + 1
        counts = np.bincount(self.codes * n_levels + levels, minlength=self.n_patients * n_levels)
        table = counts.reshape(self.n_patients, n_levels).astype(np.float64)
        rarity = 1.0 - (table > 0).sum(axis=0) / (self.n_patients + 1)
        return np.asarray(np.argmax(table + 0.5 * rarity * (table > 0), axis=1), dtype=np.int64)


def deal_folds(strata: IntArray, n_folds: int, rng: np.random.Generator) -> IntArray:
    """Deal patients to folds, evenly within each stratum (patient label) and evenly overall.

    strata: (n_patients,) label of each patient. Returns (n_patients,) fold numbers. Within a stratum the
    patients are shuffled and assigned round-robin, the next stratum going on where the last one stopped, so two
    patients of one stratum are interchangeable: the reason why permutations within folds are exact.
    """
    folds = np.empty(len(strata), dtype=np.int64)
    levels, counts = np.unique(strata, return_counts=True)
    dealt = 0
    for level in levels[np.argsort(counts, kind="stable")]:
        members = rng.permutation(np.flatnonzero(strata == level))
        folds[members] = (dealt + np.arange(len(members))) % n_folds
        dealt += len(members)
    return folds


def drawn_evenly(patients: Patients, most: int, rng: np.random.Generator) -> IntArray:
    """Up to `most` images, of each patient about as many."""
    n = len(patients)
    if n <= most:
        return np.arange(n, dtype=np.int64)
    turn = turn_within_patient(patients.codes, np.argsort(rng.random(n), kind="stable"))
    return np.sort(np.lexsort((rng.random(n), turn))[:most]).astype(np.int64)


def turn_within_patient(codes: IntArray, order: NDArray[np.intp] | IntArray) -> IntArray:
    """For each image the number of images of the same patient before it in an order, (n,): 0 for the patient's first.

    Taking images by turn takes the first image of every patient before the second of any.

    Args:
        codes: (n,) patient of each image, 0 … n_patients-1.
        order: (n,) permutation of the rows.
    """
    sizes = np.bincount(codes)
    by_patient = order[np.argsort(codes[order], kind="stable")]
    turn = np.empty(len(codes), dtype=np.int64)
    turn[by_patient] = np.arange(len(codes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return turn


def bootstrap_counts(n_patients: int, n_draws: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """How often each patient is drawn in each bootstrap sample of patients, (n_draws, n_patients)."""
    counts = np.empty((n_draws, n_patients), dtype=np.float32)
    rows = max(1, 1_000_000 // n_patients)
    for first in range(0, n_draws, rows):
        n = min(rows, n_draws - first)
        drawn = rng.integers(0, n_patients, (n, n_patients)) + np.arange(n)[:, None] * n_patients
        counts[first : first + n] = np.bincount(drawn.ravel(), minlength=n * n_patients).reshape(n, n_patients)
    return counts


@dataclass(frozen=True)
class PatientPermutations:
    """Permutations of a variable that move whole patients.

    - Patients in whom the variable is constant exchange their value among each other.
    - Patients in whom it varies exchange their whole block of values with patients who have as many images
      (of each level of `within`), and the values of a block are shuffled among the patient's own images (of the
      same level of `within`). A patient whose number of images is unique is only shuffled: it keeps its own values.
      Without the shuffling a variable such as the side (every patient one left and one right image)
      could not be permuted at all.

    `block` (n_patients,): patients exchange only within the same block (fold, or stratum, or both).
    `within` (n,): level of the conditioning variable of each row; exchanges leave it alone (all 0 if there is none).

    These permutations form a group, and under the null hypothesis (the variable is independent of the vectors,
    given block and `within`) they leave the joint distribution as it is: the test is exact, not asymptotic.
    """

    patients: Patients
    varies: NDArray[np.bool_]  # (n_patients,)
    group: IntArray  # (n_patients,) patients of one group are exchanged
    canonical: IntArray  # (n,) rows sorted by patient, then by `within`
    start: IntArray  # (n_patients,) first position of each patient in `canonical`
    cell: IntArray  # (n,) in canonical order: number of the (patient, within) cell

    @classmethod
    def plan(
        cls, patients: Patients, values: NDArray[np.generic], block: IntArray, within: IntArray
    ) -> PatientPermutations:
        codes = patients.codes
        n_levels = int(within.max()) + 1
        counts = np.bincount(codes * n_levels + within, minlength=patients.n_patients * n_levels)
        composition = counts.reshape(patients.n_patients, n_levels)
        varies = ~patients.constant(values)
        # Constant patients need only the same set of levels, varying ones as many images of each.
        signature = np.where(varies[:, None], composition, composition > 0)
        keys = np.column_stack([block, varies, signature])
        _, group = np.unique(keys, axis=0, return_inverse=True)
        canonical = np.lexsort((within, codes))
        _, cell = np.unique((codes * n_levels + within)[canonical], return_inverse=True)
        start = np.concatenate([[0], np.cumsum(patients.sizes)[:-1]])
        return cls(patients, varies, group.reshape(-1).astype(np.int64), canonical, start, cell.astype(np.int64))

    @property
    def n_movable(self) -> int:
        """Patients who can be given something other than their own block order: exchanged, or shuffled."""
        crowd = np.bincount(self.group)[self.group]
        return int(((crowd > 1) | (self.varies & (self.patients.sizes > 1))).sum())

    def draw(self, n_draws: int, seed: int, chunk: int, rows: IntArray | None = None) -> Iterator[IntArray]:
        """Yield (≤ chunk, n) arrays of source rows: permuted = values[source]. Independent of the chunk size.

        rows: the images to describe, in this order; None: all, unchanged.
        """
        # A stream of its own (the 2): sharing one with the folds would tie the permutations to them.
        exchange, shuffle = (np.random.default_rng(s) for s in np.random.SeedSequence([seed, 2]).spawn(2))
        by_group = np.argsort(self.group, kind="stable")
        sorted_group = self.group[by_group].astype(np.float64)
        codes = self.patients.codes[self.canonical]
        position = np.arange(len(codes)) - self.start[codes]
        varying_rows = np.flatnonzero(self.varies[codes])
        cells = self.cell[varying_rows].astype(np.float64)
        first_row = self.canonical[self.start]
        wanted = self.patients.codes if rows is None else self.patients.codes[rows]
        for first in range(0, n_draws, chunk):
            n = min(chunk, n_draws - first)
            # argsort of (group + uniform) shuffles within groups only: one sort permutes all groups at once.
            order = np.argsort(sorted_group + exchange.random((n, len(by_group))), axis=1)
            giver = np.empty((n, len(by_group)), dtype=np.int64)
            giver[:, by_group] = by_group[order]
            if not len(varying_rows):
                yield np.take(first_row[giver], wanted, axis=1)
                continue
            position_of = np.where(self.varies[codes], position, 0)
            source = self.start[giver[:, codes]] + position_of
            mixed = np.argsort(cells + shuffle.random((n, len(varying_rows))), axis=1)
            source[:, varying_rows] = np.take_along_axis(source[:, varying_rows], mixed, axis=1)
            out = np.empty_like(source)
            out[:, self.canonical] = self.canonical[source]
            yield out if rows is None else out[:, rows]
