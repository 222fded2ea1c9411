"""Which labels nearest neighbours share, the disease or the device: measures without a probe, which can rank saturated
backbones.

- [0]: Kömen et al., Towards Robust Foundation Models for Digital Pathology, 2025 (PathoROB): Robustness Index and
  clustering score
- [1]: Büttner et al., A test metric for assessing single-cell RNA-seq batch correction, 2019: kBET
- [2]: Korsunsky et al., Fast, sensitive and accurate integration of single-cell data with Harmony, 2019: LISI
- [3]: Luecken et al., Benchmarking atlas-level data integration in single-cell genomics, 2022: k of kBET, scale of
  iLISI

The unit is the patient: a neighbour is the nearest image of *another* patient, one image per patient; kBET, iLISI and
clusters use one embedding per patient. Each measure is reported with its value at chance, for labels unrelated to the
vectors.

Legend: n images, p patients, d dimensions, k neighbours, a levels of the clinical variable, b of the acquisition
factor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2
from scipy.stats import t as student_t
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, silhouette_score

from pellucid.cohort.statistics import IntArray, Patients, deal_folds, drawn_evenly
from pellucid.probes.estimators.knn import K, nearest_patients

N_GROUPS = 16  # of patients, left out in turn
MOST_QUERIES = 10_000  # images whose neighbours are searched, drawn evenly over patients
SHUFFLES = 200_000  # patients whose chance is counted, all permutations together
KBET_ALPHA = 0.05
LISI_NEIGHBOURS = 90  # as in [2]: three times the perplexity
_MOST_CLUSTERS = 10
_SILHOUETTES = 2_000  # patients by whom the number of clusters is chosen
_MOST_PATIENTS = (
    5_000  # for kBET, iLISI and clusters: more make them no more certain, and the distances grow quadratically
)


@dataclass(frozen=True)
class Neighbours:
    """The measures of one pair; NaN where they cannot be computed.

    Attributes:
        k: neighbours (patients) of the Robustness Index.
        robustness_index: of the neighbours that differ in one of the two labels only, the share that has the same
            clinical label under another acquisition; 1 is the disease alone, 0 the device alone.
        ci_low, ci_high: its 95 % interval.
        chance: its expectation if neighbours were drawn at random from the other patients.
        ilisi: levels of the acquisition factor that are mixed in a neighbourhood, 0 (one level) to 1 (all equally
            often).
        ilisi_chance: the same with the factor permuted over patients.
        kbet_rejection: share of patients whose neighbourhood has other shares of the levels than the cohort.
        kbet_chance: the same with the factor permuted over patients.
        n_clusters: of k-means on patients, chosen by silhouette.
        ami_clinical, ami_acquisition: adjusted mutual information of the clusters with either.
        clustering_score: adjusted Rand index with the clinical variable minus that with the factor.
        n_patients: patients in the last three measures (without those in whom the factor varies).
    """

    k: int
    robustness_index: float
    ci_low: float
    ci_high: float
    chance: float
    ilisi: float
    ilisi_chance: float
    kbet_rejection: float
    kbet_chance: float
    n_clusters: int
    ami_clinical: float
    ami_acquisition: float
    clustering_score: float
    n_patients: int


class Neighbourhood:
    """Nearest neighbours, computed once per set of vectors and used for every pair."""

    def __init__(self, vectors: NDArray[np.floating], patients: Patients, seed: int) -> None:
        self.patients, self.seed = patients, seed
        rng = np.random.default_rng([seed, 1])
        self.k = int(min(K, max(3, patients.n_patients // 5), patients.n_patients - 1))
        self.queries = drawn_evenly(patients, MOST_QUERIES, rng)
        more = min(2 * self.k, patients.n_patients - 1)  # some of them are left out in turn
        self.near = nearest_patients(vectors, patients, self.queries, more)  # (m, more) image numbers, nearest first
        self.embedding = patient_embeddings(vectors, patients)
        all_patients = np.arange(patients.n_patients)
        few = (
            rng.choice(all_patients, _MOST_PATIENTS, replace=False)
            if patients.n_patients > _MOST_PATIENTS
            else all_patients
        )
        self.few = np.sort(few)
        self._mixed: dict[bytes, tuple[float, float, float, float]] = {}  # by factor
        self._grouped: dict[bytes, IntArray | None] = {}  # clusters, by the patients in them

    def measure(self, clinical: IntArray, acquisition: IntArray) -> Neighbours:
        """All measures of one pair.

        Args:
            clinical, acquisition: (n,) levels from 0.
        """
        index, low, high = self.robustness(clinical, acquisition)
        chance = robustness_chance(self.patients, self.queries, clinical, acquisition)
        factor = _of_patients(self.patients, acquisition)
        here = self.few[factor[self.few] >= 0]
        patients_key, factor_key = here.tobytes(), factor.tobytes()
        if factor_key not in self._mixed:
            self._mixed[factor_key] = _mixing(self.embedding[here], factor[here], self.seed)
        if patients_key not in self._grouped:
            self._grouped[patients_key] = _clusters(self.embedding[here], self.seed)
        agreement = _agreement(self._grouped[patients_key], _typical(self.patients, clinical)[here], factor[here])
        return Neighbours(self.k, index, low, high, chance, *self._mixed[factor_key], *agreement, len(here))

    def robustness(self, clinical: IntArray, acquisition: IntArray) -> tuple[float, float, float]:
        """Robustness Index [0, equation 1] with its 95 % interval.

        All patients have equal weight. The standard error is the jackknife that leaves out one of 16 groups of
        patients, as queries and as neighbours; Student's t with 15 degrees of freedom on the arcsine-root scale.
        """
        codes = self.patients.codes
        same_clinical = clinical[self.queries][:, None] == clinical[self.near]
        same_acquisition = acquisition[self.queries][:, None] == acquisition[self.near]
        weights = _query_weights(codes[self.queries])
        rng = np.random.default_rng([self.seed, 2])
        label = _typical(self.patients, clinical * (int(acquisition.max()) + 1) + acquisition)
        group = deal_folds(label, N_GROUPS, rng)[codes]

        def index(kept: NDArray[np.bool_], queries: NDArray[np.bool_]) -> float:
            first = kept & (np.cumsum(kept, axis=1) <= self.k)
            robust = ((same_clinical & ~same_acquisition & first).sum(axis=1) * weights)[queries].sum()
            fooled = ((~same_clinical & same_acquisition & first).sum(axis=1) * weights)[queries].sum()
            return float(robust / (robust + fooled)) if robust + fooled > 0 else float("nan")

        all_queries = np.ones(len(self.queries), dtype=bool)
        whole = index(np.ones(self.near.shape, dtype=bool), all_queries)
        without = np.array([index(group[self.near] != g, group[self.queries] != g) for g in range(N_GROUPS)])
        stretched = np.arcsin(np.sqrt(without[np.isfinite(without)]))
        if not np.isfinite(whole) or len(stretched) < N_GROUPS:
            return whole, float("nan"), float("nan")
        error = np.sqrt((N_GROUPS - 1) * stretched.var())
        reach = float(student_t.ppf(0.975, N_GROUPS - 1)) * error
        centre = np.arcsin(np.sqrt(whole))
        low, high = np.sin(np.clip([centre - reach, centre + reach], 0, np.pi / 2)) ** 2
        first = np.arange(self.near.shape[1]) < self.k
        informative = ((same_clinical != same_acquisition) & first).any(axis=1)
        few = 3 / max(len(np.unique(codes[self.queries[informative]])), 3)  # at 0 or 1 nothing varies: rule of three
        if whole > 1 - 1e-12:
            low = min(low, 1 - few)
        if whole < 1e-12:
            high = max(high, few)
        return whole, float(low), float(high)


def robustness_chance(patients: Patients, queries: IntArray, clinical: IntArray, acquisition: IntArray) -> float:
    """The Robustness Index expected if neighbours were drawn at random from the other patients, by exact counting.

    It is 0.5 for two balanced, unassociated labels only. With several clinical classes it falls, because a neighbour of
    another class is then the rule.
    """
    a, b = int(clinical.max()) + 1, int(acquisition.max()) + 1
    cell = clinical * b + acquisition
    own = np.zeros((patients.n_patients, a * b))
    np.add.at(own, (patients.codes, cell), patients.weights)
    others = (own.sum(axis=0) - own[patients.codes[queries]]).reshape(len(queries), a, b)
    y, z, row = clinical[queries], acquisition[queries], np.arange(len(queries))
    both = others[row, y, z]
    robust = others[row, y].sum(axis=1) - both
    fooled = others[row, :, z].sum(axis=1) - both
    weights = _query_weights(patients.codes[queries])
    total = float((weights * (robust + fooled)).sum())
    return float((weights * robust).sum() / total) if total > 0 else float("nan")


def patient_embeddings(vectors: NDArray[np.floating], patients: Patients) -> NDArray[np.float32]:
    """(p, d) one embedding a patient: the mean of the images' vectors, each first centred on the cohort and scaled to
    length 1, scaled to length 1 again (`embed.patients` has the same rule without the centring, which no label
    enters)."""
    centre = np.average(np.asarray(vectors, dtype=np.float64), axis=0, weights=patients.weights)
    total = np.zeros((patients.n_patients, vectors.shape[1]))
    for first in range(0, len(vectors), 65_536):
        part = slice(first, first + 65_536)
        away = np.asarray(vectors[part], dtype=np.float64) - centre
        np.add.at(total, patients.codes[part], away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-12))
    return np.asarray(total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12), dtype=np.float32)


def kbet_rejections(near: IntArray, levels: IntArray, shares: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which neighbourhoods have other shares of the levels than the cohort, by Pearson's χ² [1, equation 1].

    Args:
        near: (p, k) patients, the neighbourhood of each including the patient, as in the kBET package.
        levels: (p,) from 0.
        shares: (b,) of the levels in the cohort.
    """
    counts = (levels[near][:, :, None] == np.arange(len(shares))).sum(axis=1)
    expected = near.shape[1] * shares
    statistic = ((counts - expected) ** 2 / expected).sum(axis=1)
    return np.asarray(chi2.sf(statistic, len(shares) - 1) < KBET_ALPHA)


def lisi_weights(distances: NDArray[np.float64], perplexity: float) -> NDArray[np.float64]:
    """(p, k) Gaussian weights of each patient's neighbours whose entropy is log(perplexity) [2, methods].

    Args:
        distances: (p, k) to the neighbours, without the patient's own.
    """
    away = distances - distances.min(axis=1, keepdims=True)  # cancels when the weights are made to sum to 1
    low, high = np.full(len(away), 1e-12), np.full(len(away), 1e12)
    wanted = np.log(perplexity)
    weights = np.full(away.shape, 1.0 / away.shape[1])
    for _ in range(80):  # entropy falls with the sharpness: bisection on its logarithm
        sharpness = np.sqrt(low * high)
        weights = np.exp(-away * sharpness[:, None])
        weights /= weights.sum(axis=1, keepdims=True)
        entropy = -(weights * np.log(np.maximum(weights, 1e-300))).sum(axis=1)
        low, high = np.where(entropy > wanted, sharpness, low), np.where(entropy > wanted, high, sharpness)
    return weights


def lisi(weights: NDArray[np.float64], near: IntArray, levels: IntArray, n_levels: int) -> NDArray[np.float64]:
    """(p,) inverse Simpson's index: the effective number of levels in each neighbourhood [2]."""
    shares = np.stack([(weights * (levels[near] == level)).sum(axis=1) for level in range(n_levels)], axis=1)
    return np.asarray(1.0 / (shares**2).sum(axis=1))


def _mixing(embedding: NDArray[np.float32], levels: IntArray, seed: int) -> tuple[float, float, float, float]:
    """iLISI, its chance, kBET's rejection rate, its chance."""
    n = len(levels)
    present, levels = np.unique(levels, return_inverse=True)
    b = len(present)
    if n < 3 * N_GROUPS or b < 2:
        return (float("nan"),) * 4
    shares = np.bincount(levels) / n
    k = int(min(70, max(10, n // b // 4)))  # a quarter of the mean level, 10 to 70 [3]
    wide = int(min(LISI_NEIGHBOURS, n - 1))
    near, distances = ranked(embedding, max(k, wide + 1))
    weights = lisi_weights(distances[:, 1 : wide + 1], max(wide / 3, 2.0))
    around = near[:, 1 : wide + 1]

    def mixing_of(labels: IntArray) -> tuple[float, float]:
        mixed = float(np.median(lisi(weights, around, labels, b)))
        return (mixed - 1) / (b - 1), float(kbet_rejections(near[:, :k], labels, shares).mean())

    rng = np.random.default_rng([seed, 3])
    ilisi, rejected = mixing_of(levels)
    shuffled = np.mean(
        [mixing_of(rng.permutation(levels)) for _ in range(int(np.clip(SHUFFLES // n, 19, 199)))], axis=0
    )
    return ilisi, float(shuffled[0]), rejected, float(shuffled[1])


def _clusters(embedding: NDArray[np.float32], seed: int) -> IntArray | None:
    """(p,) cluster of each patient by k-means, their number chosen by silhouette; None if there are too few patients or
    all are identical."""
    n = len(embedding)
    if n < 3 * N_GROUPS:
        return None
    best, chosen = -np.inf, None
    for k in range(2, min(_MOST_CLUSTERS, n // 10) + 1):
        found = KMeans(k, n_init=5, random_state=seed % 2**31).fit_predict(embedding)
        some = np.random.default_rng([seed, 8]).permutation(n)[:_SILHOUETTES]
        if not 1 < len(np.unique(found[some])) < len(some):  # one cluster contains nearly all patients
            continue
        width = silhouette_score(embedding[some], found[some])
        if width > best:
            best, chosen = float(width), found.astype(np.int64)
    return chosen


def _agreement(clusters: IntArray | None, clinical: IntArray, acquisition: IntArray) -> tuple[int, float, float, float]:
    """Number of clusters, adjusted mutual information with either label, and PathoROB's clustering score."""
    if clusters is None:
        return 0, float("nan"), float("nan"), float("nan")
    return (
        int(clusters.max()) + 1,
        float(adjusted_mutual_info_score(clinical, clusters)),
        float(adjusted_mutual_info_score(acquisition, clusters)),
        float(adjusted_rand_score(clinical, clusters) - adjusted_rand_score(acquisition, clusters)),
    )


def ranked(embedding: NDArray[np.float32], k: int) -> tuple[IntArray, NDArray[np.float64]]:
    """(p, k) nearest patients, starting with the patient, and their Euclidean distances."""
    k = min(k, len(embedding))
    near = np.empty((len(embedding), k), dtype=np.int64)
    distances = np.empty((len(embedding), k))
    for first in range(0, len(embedding), 1_000):
        part = slice(first, min(first + 1_000, len(embedding)))
        squared = np.maximum(2.0 - 2.0 * (embedding[part] @ embedding.T).astype(np.float64), 0.0)
        squared[np.arange(part.stop - first), np.arange(first, part.stop)] = -1.0
        some = np.argpartition(squared, k - 1, axis=1)[:, :k]
        order = np.argsort(np.take_along_axis(squared, some, axis=1), axis=1, kind="stable")
        near[part] = np.take_along_axis(some, order, axis=1)
        distances[part] = np.sqrt(np.maximum(np.take_along_axis(squared, near[part], axis=1), 0.0))
    return near, distances


def _query_weights(codes: IntArray) -> NDArray[np.float64]:
    """1 / queries of the same patient."""
    return np.asarray(1.0 / np.bincount(codes)[codes])


def _of_patients(patients: Patients, levels: IntArray) -> IntArray:
    """(p,) level of each patient; −1 where it varies within the patient."""
    return np.where(patients.constant(levels), _typical(patients, levels), -1).astype(np.int64)


def _typical(patients: Patients, levels: IntArray) -> IntArray:
    return patients.typical(levels.astype(np.int64))
