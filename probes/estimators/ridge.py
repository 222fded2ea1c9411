"""The linear probe: ridge scores out of fold, with one factorisation that serves every permuted target.

A ridge regression on the indicator of a level gives, up to its scale, the direction of a regularised linear
discriminant (Hastie, Tibshirani & Friedman, Elements of Statistical Learning, 4.3 and exercise 4.2), whatever
the balance of the classes; the AUROC depends only on that direction. Therefore the same method serves binary,
one-vs-rest and rank targets, and everything that depends on the vectors alone is computed once.

Everything is fitted inside the fold: centring, scaling, directions, penalty. With strata, vectors and targets are
also centred within each stratum (on training patients), so that the probe uses differences *between patients of the
same stratum* and not differences between strata.

Legend: n images, d dimensions, r rank, c targets, k folds, s strata.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.linalg.lapack import dposv, sposv

from pellucid.cohort.statistics import IntArray

N_PENALTIES = 12
_LIKE = 1000.0  # standard deviations within this factor need no other unit


@dataclass(frozen=True)
class FoldFactor:
    """What depends on the vectors of the training patients of one fold alone."""

    train_folds: IntArray  # the other folds
    means: NDArray[np.float64]  # (s, d) training mean of each stratum
    mass: NDArray[np.float64]  # (s,) training weight of each stratum
    scale: NDArray[np.float64]  # (d,) 1 / training standard deviation, 0 where a dimension does not vary
    basis: NDArray[np.float64]  # (d, r) scaled eigenvectors: (x - mean) @ basis are the coordinates
    eigenvalues: NDArray[np.float64]  # (r,)
    penalties: NDArray[np.float64]  # (N_PENALTIES,)
    inverse: NDArray[np.float64]  # (N_PENALTIES, r) 1 / (eigenvalue + penalty)
    correction: NDArray[np.float64]  # (N_PENALTIES,) 1 / (1 - dof / patients)², see `_penalties`


def _penalties(eigenvalues: NDArray[np.float64], n_patients: float, n_strata: int) -> tuple[Any, Any, Any]:
    """Penalties spaced by effective degrees of freedom, and their generalised cross-validation correction.

    Generalised cross-validation (Golub, Heath & Wahba 1979) divides the residual sum by (1 - dof / n)². Images of one
    patient are near copies of each other, so n is taken to be the number of *patients*: with perfect copies
    this is leave-one-patient-out, and otherwise it errs towards the larger penalty.
    """
    limit = 0.9 * (n_patients - n_strata)
    top = max(min(0.95 * len(eigenvalues), 0.8 * limit), 0.5)
    wanted = np.geomspace(min(1.0, 0.5 * top), top, N_PENALTIES)
    grid = np.linspace(-30.0, 30.0, 61)  # of the logarithm: dof falls monotonically
    on_grid, _ = _degrees_of_freedom(eigenvalues, grid)
    place = np.clip(np.searchsorted(-on_grid, -wanted), 1, len(grid) - 1)
    low, high = grid[place - 1], grid[place]
    log = np.interp(-wanted, -on_grid, grid)
    for _ in range(6):  # Newton, kept inside its bracket; many small steps would keep threads waiting for each other
        dof, fall = _degrees_of_freedom(eigenvalues, log)
        log = np.clip(log + (dof - wanted) / np.maximum(fall, 1e-300), low, high)
    penalty = np.exp(log)
    dof, _ = _degrees_of_freedom(eigenvalues, log)
    correction = 1.0 / (1.0 - np.minimum((dof + n_strata) / n_patients, 0.99)) ** 2
    return penalty, 1.0 / (eigenvalues + penalty[:, None]), correction


def _degrees_of_freedom(eigenvalues: NDArray[np.float64], log: NDArray[np.float64]) -> tuple[Any, Any]:
    """Effective degrees of freedom at each logarithm of the penalty (m,), and how fast they fall with it."""
    share = eigenvalues / (eigenvalues + np.exp(log)[:, None])
    return share.sum(axis=1), (share * (1.0 - share)).sum(axis=1)


@dataclass(frozen=True)
class Direction:
    """The probe of one fold for each of c targets."""

    coefficients: NDArray[np.float64]  # (c, r) in the coordinates of `FoldFactor.basis`
    spread: NDArray[np.float64]  # (c,) standard deviation of the scores over the training patients
    penalty: NDArray[np.float64]  # (c,)


class FoldedRidge:
    """Ridge probe over patient-grouped folds, factorised once, applied to any number of targets."""

    def __init__(
        self,
        vectors: NDArray[np.floating],  # (n, d)
        weights: NDArray[np.float64],  # (n,) 1 / images of the patient: they sum to the number of patients
        folds: IntArray,  # (n,) fold of each image; all images of one patient in one fold
        strata: IntArray,  # (n,) 0 … s-1; all zero for the unconditional probe
        dtype: type[np.floating] = np.float32,
    ) -> None:
        vectors, _ = in_like_units(vectors)
        self.n, self.d = vectors.shape
        self.weights, self.dtype = weights, dtype
        n_folds, n_strata = int(folds.max()) + 1, int(strata.max()) + 1
        self.rows = [np.flatnonzero(folds == fold) for fold in range(n_folds)]
        self.by_fold = np.concatenate(self.rows)
        ends = np.cumsum([len(rows) for rows in self.rows])
        self.slices = [slice(end - len(rows), end) for end, rows in zip(ends.tolist(), self.rows, strict=True)]
        # A global shift cancels in the training-fold centring below; it is here for the precision of the sums only.
        centre = np.average(vectors, axis=0, weights=weights)
        indicator = np.eye(n_strata)
        # [vectors | stratum indicator]: one product gives the sums by dimension and by stratum together.
        self.augmented: list[NDArray[np.floating]] = []
        sums: list[NDArray[np.float64]] = []
        masses: list[NDArray[np.float64]] = []
        grams: list[NDArray[np.float64]] = []
        self.kernel = self.d > self.n * (n_folds - 1) // n_folds
        blocks = []
        for rows in self.rows:
            block = np.asarray(vectors[rows], dtype=np.float64) - centre
            members = indicator[strata[rows]]
            weighted = members * weights[rows, None]
            sums.append(weighted.T @ block)
            masses.append(weighted.sum(axis=0))
            if self.kernel:
                blocks.append(block)
            else:
                rooted = block * np.sqrt(weights[rows, None])
                grams.append(rooted.T @ rooted)
            self.augmented.append(np.hstack([block, members]).astype(dtype))
        self.factors: list[FoldFactor] = []
        for fold in range(n_folds):
            others = np.array([f for f in range(n_folds) if f != fold])
            mass = np.asarray(np.sum([masses[f] for f in others], axis=0))
            total = np.asarray(np.sum([sums[f] for f in others], axis=0))
            overall = total.sum(axis=0) / mass.sum()
            means = np.where(mass[:, None] > 0, total / np.maximum(mass, 1e-12)[:, None], overall)
            if self.kernel:
                centred = np.vstack([blocks[f] - means[strata[self.rows[f]]] for f in others])
                centred *= np.sqrt(np.concatenate([weights[self.rows[f]] for f in others]) / mass.sum())[:, None]
                scale, basis, eigenvalues = _kernel_basis(centred)
            else:
                gram = np.sum([grams[f] for f in others], axis=0) - (means * mass[:, None]).T @ means
                scale, basis, eigenvalues = _gram_basis(gram / mass.sum())
            penalties, inverse, correction = _penalties(eigenvalues, mass.sum(), int((mass > 0).sum()))
            self.factors.append(
                FoldFactor(others, means, mass, scale, basis, eigenvalues, penalties, inverse, correction)
            )

    def directions(self, targets: NDArray[np.floating]) -> list[Direction]:
        """Per fold the fitted coordinates of each target (c, n) with the penalty chosen for it."""
        return self._directions(np.take(targets, self.by_fold, axis=1))

    def scores(self, targets: NDArray[np.floating], standardise: bool = True) -> NDArray[np.floating]:
        """Out-of-fold scores of each target, (c, n) from targets (c, n).

        standardise: divide by the training spread of the scores, so that scores of different folds (whose
        penalties may differ) can be compared with each other; without it the scores are predictions of the target,
        up to its training mean.
        """
        out = np.empty(targets.shape, dtype=self.dtype)
        out[:, self.by_fold] = self.scores_by_fold(np.take(targets, self.by_fold, axis=1), standardise)
        return out

    def _directions(self, targets: NDArray[np.floating]) -> list[Direction]:
        """Of targets whose images are in the order `by_fold`, in which every fold is one slice."""
        targets = np.asarray(targets, dtype=self.dtype)
        weighted = targets * self.weights[self.by_fold].astype(self.dtype)
        cross = [weighted[:, part] @ block for part, block in zip(self.slices, self.augmented, strict=True)]
        square = np.stack([np.einsum("cn,cn->c", weighted[:, part], targets[:, part]) for part in self.slices], axis=1)
        fitted = []
        for factor in self.factors:
            total = np.asarray(np.sum([cross[f] for f in factor.train_folds], axis=0, dtype=np.float64))  # (c, d + s)
            by_stratum = total[:, self.d :]
            moment = (total[:, : self.d] - by_stratum @ factor.means) @ factor.basis / factor.mass.sum()  # (c, r)
            spread = square[:, factor.train_folds].sum(axis=1, dtype=np.float64)
            spread = (spread - (by_stratum**2 / np.maximum(factor.mass, 1e-12)).sum(axis=1)) / factor.mass.sum()
            explained = (moment**2) @ (2 * factor.inverse - factor.eigenvalues * factor.inverse**2).T
            residual = np.maximum(spread[:, None] - explained, 0.0) * factor.correction
            chosen = np.argmin(residual, axis=1)
            coefficients = factor.inverse[chosen] * moment
            spread = np.sqrt((factor.eigenvalues * coefficients**2).sum(axis=1))
            fitted.append(Direction(coefficients, spread, factor.penalties[chosen]))
        return fitted

    def scores_by_fold(self, targets: NDArray[np.floating], standardise: bool = True) -> NDArray[np.floating]:
        """`scores` of targets whose images are in the order `by_fold`, in that order: no gathering, for the many
        permuted ones."""
        out = np.empty(targets.shape, dtype=self.dtype)
        fitted = self._directions(targets)
        for factor, part, block, direction in zip(self.factors, self.slices, self.augmented, fitted, strict=True):
            coefficients = direction.coefficients
            if standardise:
                coefficients = coefficients / np.maximum(direction.spread, 1e-12)[:, None]
            slope = coefficients @ factor.basis.T  # (c, d)
            offset = slope @ factor.means.T  # (c, s)
            np.matmul(np.hstack([slope, -offset]).astype(self.dtype), block.T, out=out[:, part])
        return out


Probe = tuple[NDArray[np.float64], NDArray[np.float64], float]  # (c, d) slopes, (c,) offsets, penalty


def fitted_probe(
    vectors: NDArray[np.floating],  # (n, d) of the training patients
    weights: NDArray[np.float64],  # (n,) 1 / images of the patient
    targets: NDArray[np.floating],  # (c, n)
    penalty: float | None = None,
) -> Probe:
    """The same probe fitted once: (c, d) slopes and (c,) offsets whose scores have unit spread in training, and the
    penalty.

    penalty: chosen as in `FoldedRidge` where None is given; one given is solved for at once.
    """
    exact: type[np.floating[Any]] = (
        np.float64 if penalty is None else np.float32
    )  # only the spectrum needs more than single precision
    given, (vectors, units) = vectors, in_like_units(vectors)
    if vectors is not given:
        slope, offset, used = fitted_probe(vectors, weights, targets, penalty)
        return slope / units, offset, used
    share = weights / weights.sum()
    mean = share @ vectors
    centred = np.asarray(vectors - mean, dtype=exact)
    rooted = centred * np.sqrt(share, dtype=exact)[:, None]
    weighted = np.asarray(targets * share, dtype=exact)
    spread = (weighted * targets).sum(axis=1) - weighted.sum(axis=1) ** 2
    if vectors.shape[1] <= len(vectors):
        return _probe_of(mean, rooted.T @ rooted, weighted @ centred, spread, float(weights.sum()), penalty)
    if penalty is not None:  # the (n, n) side is the smaller
        scale = _scale((rooted**2).sum(axis=0))
        scaled = rooted * scale
        inner = scaled @ scaled.T
        inner[np.diag_indices_from(inner)] += penalty
        slope = solved(inner, targets * np.sqrt(share)) @ scaled * scale
    else:
        _, basis, eigenvalues = _kernel_basis(rooted)
        slope, penalty = _chosen(basis, eigenvalues, weighted @ centred, spread, float(weights.sum()))
    slope = slope / np.maximum(np.sqrt(((slope @ rooted.T) ** 2).sum(axis=1)), 1e-12)[:, None]
    return slope, -slope @ mean, penalty


def fold_probes(
    vectors: NDArray[np.floating],  # (n, d)
    weights: NDArray[np.float64],  # (n,) 1 / images of the patient
    targets: NDArray[np.floating],  # (c, n)
    folds: IntArray,  # (n,) whole patients, 0 … k-1
    n_folds: int,
    penalty: float | None = None,
) -> list[Probe]:
    """`fitted_probe` of all folds but each in turn; the sums over the vectors are computed once."""
    given, (vectors, units) = vectors, in_like_units(vectors)
    if vectors is not given:
        probes = fold_probes(vectors, weights, targets, folds, n_folds, penalty)
        return [(slope / units, offset, used) for slope, offset, used in probes]
    exact: type[np.floating[Any]] = np.float64 if penalty is None else np.float32
    centre = (weights / weights.sum()).astype(vectors.dtype) @ vectors  # for the precision of the sums only
    parts = []
    for fold in range(n_folds):
        rows = np.flatnonzero(folds == fold)
        away = np.subtract(vectors[rows], centre, dtype=exact)
        own, its = weights[rows].astype(exact), np.asarray(targets[:, rows], dtype=exact)
        rooted = away * np.sqrt(own)[:, None]
        parts.append([own.sum(), own @ away, rooted.T @ rooted, (its * own) @ away, its @ own, its**2 @ own])
    whole = [np.sum(of_folds, axis=0) for of_folds in zip(*parts, strict=True)]
    found = []
    for fold in range(n_folds):
        rows = np.flatnonzero(folds != fold)
        if vectors.shape[1] > len(rows):
            found.append(fitted_probe(vectors[rows], weights[rows], targets[:, rows], penalty))
            continue
        mass, total, gram, cross, sums, squares = (a - b for a, b in zip(whole, parts[fold], strict=True))
        mean = total / mass
        covariance = gram / mass - np.outer(mean, mean)
        moment = cross / mass - np.outer(sums / mass, mean)
        slope, offset, used = _probe_of(
            mean, covariance, moment, squares / mass - (sums / mass) ** 2, float(mass), penalty
        )
        found.append((slope, offset - slope @ centre, used))
    return found


def _probe_of(
    mean: NDArray[np.float64],  # (d,)
    covariance: NDArray[np.float64],  # (d, d)
    moment: NDArray[np.float64],  # (c, d) covariances of the targets with the vectors
    spread: NDArray[np.float64],  # (c,) variances of the targets
    n_patients: float,
    penalty: float | None,
) -> Probe:
    if penalty is None:
        _, basis, eigenvalues = _gram_basis(covariance)
        slope, penalty = _chosen(basis, eigenvalues, moment, spread, n_patients)
    else:
        scale = _scale(np.diag(covariance))
        system = covariance * scale * scale[:, None]
        system[np.diag_indices_from(system)] += penalty
        slope = solved(system, moment * scale) * scale
    deviation = np.sqrt(np.maximum(((slope @ covariance) * slope).sum(axis=1), 0.0))
    slope = slope / np.maximum(deviation, 1e-12)[:, None]
    return slope, -slope @ mean, penalty


def solved(system: NDArray[np.floating], wanted: NDArray[np.floating]) -> NDArray[np.floating]:
    """(c, d) from a positive definite system (d, d) and (c, d); once more in double precision where single is not
    enough."""
    solve = sposv if system.dtype == np.float32 else dposv
    _, found, failed = solve(system.T, wanted.T, lower=1)  # its own transpose, without a copy
    if failed and system.dtype == np.float32:
        exact = system.astype(np.float64)
        exact[np.diag_indices_from(exact)] += 1e-6 * np.diag(exact).mean()
        return solved(exact, wanted)
    if failed:  # singular even so: the shortest of the solutions
        found = np.linalg.lstsq(system, wanted.T)[0]
    return np.asarray(found.T)


def _chosen(
    basis: NDArray[np.float64],
    eigenvalues: NDArray[np.float64],
    moment: NDArray[np.float64],
    spread: NDArray[np.float64],
    n_patients: float,
) -> tuple[NDArray[np.float64], float]:
    """Slopes with the penalty chosen for each target, and the mean of the penalties."""
    moment = moment @ basis  # (c, r)
    penalties, inverse, correction = _penalties(eigenvalues, n_patients, 1)
    explained = (moment**2) @ (2 * inverse - eigenvalues * inverse**2).T
    chosen = np.argmin(np.maximum(spread[:, None] - explained, 0.0) * correction, axis=1)
    return (inverse[chosen] * moment) @ basis.T, float(np.exp(np.log(penalties[chosen]).mean()))


_Basis = tuple[
    NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]
]  # scale (d,), basis (d, r), eigenvalues (r,)


def in_like_units(vectors: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Vectors whose dimensions have about the same spread, and what each was divided by (a power of two).

    The probe scales each dimension to unit variance, so the unit of a dimension must not matter; but rounding, and the
    limit below which a dimension counts as constant, are relative to the largest. Vectors whose standard deviations
    are within a factor of 1,000 are returned unchanged.
    """
    spread = np.std(vectors, axis=0, dtype=np.float64)
    # below this it is rounding of a constant
    varies = spread > 1e-9 * np.abs(np.mean(vectors, axis=0, dtype=np.float64))
    if not varies.any() or spread[varies].max() <= _LIKE * spread[varies].min():
        return vectors, np.ones(vectors.shape[1], dtype=vectors.dtype)
    units = np.where(varies, np.exp2(np.round(np.log2(np.where(varies, spread, 1.0)))), spread.max())
    units = units.astype(vectors.dtype)
    return vectors / units, units


def _scale(variance: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / standard deviation; 0 for a dimension that does not vary among the training patients."""
    usable = variance > 1e-10 * max(float(variance.max(initial=0.0)), 1e-300)
    return np.where(usable, 1.0 / np.sqrt(np.where(usable, variance, 1.0)), 0.0).astype(variance.dtype)


def _keep(eigenvalues: NDArray[np.float64]) -> NDArray[np.bool_]:
    keep = eigenvalues > 1e-9 * max(float(eigenvalues.max(initial=0.0)), 1e-300)
    if not keep.any():
        keep[-1] = True
    return np.asarray(keep)


def _gram_basis(covariance: NDArray[np.float64]) -> _Basis:
    """Eigenvectors of the correlation matrix, scaled to act on unscaled vectors: (d, r), (r,)."""
    scale = _scale(np.diag(covariance))
    eigenvalues, vectors = eigh(covariance * scale * scale[:, None], driver="evd")
    keep = _keep(eigenvalues)
    return scale, scale[:, None] * vectors[:, keep], np.maximum(eigenvalues[keep], 0.0)


def _kernel_basis(rooted: NDArray[np.float64]) -> _Basis:
    """The same from the (n, n) side, for more dimensions than images. rooted: centred rows times √weight."""
    scale = _scale((rooted**2).sum(axis=0))
    scaled = rooted * scale
    eigenvalues, left = eigh(scaled @ scaled.T, driver="evd")
    keep = _keep(eigenvalues)
    vectors = scaled.T @ (left[:, keep] / np.sqrt(np.maximum(eigenvalues[keep], 1e-300)))
    return scale, scale[:, None] * vectors, eigenvalues[keep]
