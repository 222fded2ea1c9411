"""A randomised experiment (folds, draws, training, test), repeated for its estimate and on half samples for its error.

- [0]: Wolter, Introduction to Variance Estimation, 2007, chapter 3: balanced half samples
  (`pellucid.probes.inference.half_samples`)
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t
from threadpoolctl import threadpool_limits

from pellucid.cohort.statistics import IntArray, deal_folds
from pellucid.probes.inference.half_samples import CONTRASTS, N_GROUPS

# (p,) which patients take part, the seed and the penalty (None: to be chosen) → scores and the mean penalty
Experiment = Callable[[NDArray[np.bool_], list[int], float | None], tuple[NDArray[np.float64], float]]


def rounds(
    experiment: Experiment, label: IntArray, n_rounds: int, seed: int
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """Scores of each round with all patients, and of both halves of each of the 15 divisions with the mean penalty of
    the rounds.

    label: (p,) the patients are divided evenly over these labels.
    """
    groups = deal_folds(label, N_GROUPS, np.random.default_rng([seed, 2]))
    halves = [contrast[groups] == sign for contrast in CONTRASTS for sign in (1, -1)]
    everybody = np.ones(len(label), dtype=bool)
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(joblib.cpu_count()) as pool:
        whole = list(pool.map(lambda r: experiment(everybody, [seed, 3, r], None), range(n_rounds)))
        penalty = float(np.exp(np.mean([np.log(found[1]) for found in whole])))
        halved = list(pool.map(lambda h: experiment(halves[h], [seed, 4, h], penalty)[0], range(len(halves))))
    return [found[0] for found in whole], halved


def reach(of_halves: list[float]) -> float | None:
    """Half the width of the 95 % interval (Student's t with 15 degrees of freedom), from the scores of the halves, in
    pairs.

    The halves share no patient: half their mean squared difference is the variance with half the patients [0], and half
    of that the variance with all. None if too few halves have a score.
    """
    difference = np.diff(np.array(of_halves).reshape(-1, 2), axis=1)
    difference = difference[np.isfinite(difference)]
    if len(difference) < N_GROUPS // 2:
        return None
    return float(student_t.ppf(0.975, len(CONTRASTS))) * float(np.sqrt((difference**2).mean() / 4))
