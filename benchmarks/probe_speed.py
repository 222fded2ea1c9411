"""Speed of the audit: permutations compared with one cross-validated fit and scikit-learn's permutation test; whole
audits.

    python -m benchmarks.probe_speed [--n 20000] [--dim 384] [--patients 4000] [--peer 3] [--whole 20000 100000]

Vectors have a power-law spectrum (white ones flatter scikit-learn), with one to nine images per patient. In one run, on
the same folds:

- `fit`: one 5-fold cross-validated ridge fit with its penalty chosen among 12, and one logistic fit (scikit-learn's, as
  the audit uses it);
- `permutations`: 999 refits to permuted patients with their AUROC, as in the audit;
- `peer`: scikit-learn's `permutation_test_score` with a logistic probe and the same folds, a few permutations, scaled
  to 999;
- `whole`: audits of 3 clinical and 3 acquisition variables: seconds and the largest resident size.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from threading import Event, Thread
from typing import Any

import numpy as np
import pandas as pd
import psutil
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, permutation_test_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from pellucid.cohort.statistics.patient_resampling import PatientPermutations, Patients, deal_folds
from pellucid.probes.audit import audit
from pellucid.probes.estimators.logistic import logistic_scores
from pellucid.probes.estimators.ridge import FoldedRidge
from pellucid.probes.inference.estimate import permutation_null
from pellucid.probes.inference.statistic import Statistic, Target


def cohort(n: int, dim: int, patients: int, seed: int = 0) -> tuple[NDArray[np.float32], pd.DataFrame]:
    """Vectors and a table: diagnosis, grade and age are clinical; device, operator and year are how it was taken."""
    rng = np.random.default_rng(seed)
    who = np.sort(rng.integers(0, patients, n))
    spectrum = np.arange(1, dim + 1) ** -0.6
    values = rng.standard_normal((patients, dim))[who] * spectrum + 0.7 * rng.standard_normal((n, dim)) * spectrum
    turn = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    device = rng.integers(0, 4, patients)
    sick = np.where(rng.random(patients) < 0.3, device % 2, rng.integers(0, 2, patients))
    grade, age = rng.integers(0, 4, patients), rng.normal(60, 12, patients)
    values[:, 3] += 0.8 * sick[who]
    values[:, 5] += 0.5 * device[who]
    values[:, 7] += 0.02 * (age[who] - 60)
    table = pd.DataFrame(
        {
            "patient": who,
            "diagnosis": np.where(sick[who] > 0, "sick", "well"),
            "grade": grade[who],
            "age": age[who],
            "device": np.array(list("ABCD"))[device[who]],
            "operator": np.array(list("PQRST"))[rng.integers(0, 5, patients)[who]],
            "year": rng.integers(2015, 2025, patients)[who],
        }
    )
    return (values @ turn).astype(np.float32), table


def parts(values: NDArray[np.float32], table: pd.DataFrame, peer: int) -> dict[str, Any]:
    """Seconds of one fit, of 999 permutations, and of the peer's."""
    patients = Patients.from_ids(table["patient"].to_numpy())
    label = (table["diagnosis"] == "sick").to_numpy().astype(np.int64)
    target = Target(label, 2)
    dealt = deal_folds(patients.typical(label), 5, np.random.default_rng(0))
    folds, strata = dealt[patients.codes], np.zeros(len(label), dtype=np.int64)
    statistic = Statistic.from_target(target, patients, np.array([1]))
    fit = statistic.targets(np.arange(len(label))[None])
    told: dict[str, Any] = {}
    with threadpool_limits(1, user_api="blas"):
        began = time.perf_counter()
        ridge = FoldedRidge(values, patients.weights, folds, strata)
        observed = statistic.observed(ridge.scores(fit))
        told["ridge_fit_s"] = round(time.perf_counter() - began, 2)
        began = time.perf_counter()
        logistic_scores(ridge, label, np.array([1]))
        told["logistic_fit_s"] = round(time.perf_counter() - began, 2)
        began = time.perf_counter()
        plan = PatientPermutations.plan(patients, label, dealt, strata)
        null = permutation_null(ridge, statistic, plan, 999, 0)
        told["permutations_999_s"] = round(time.perf_counter() - began, 2)
    told |= {"auroc": round(observed, 3), "null_sd": round(float(null.std()), 4)}
    told["permutations_over_ridge_fit"] = round(told["permutations_999_s"] / told["ridge_fit_s"], 1)
    told["permutations_over_logistic_fit"] = round(told["permutations_999_s"] / told["logistic_fit_s"], 1)
    if peer:
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
        began = time.perf_counter()
        permutation_test_score(
            model,
            values,
            label,
            cv=PredefinedSplit(folds),
            groups=None,
            n_permutations=peer,
            scoring="roc_auc",
            n_jobs=1,
        )
        seconds = time.perf_counter() - began
        told["peer_999_s"] = round(seconds / (peer + 1) * 1000)
        told["times_faster"] = round(told["peer_999_s"] / told["permutations_999_s"])
    return told


def whole(n: int, dim: int, patients: int, further: bool) -> dict[str, Any]:
    """Seconds of an audit of three clinical and three acquisition variables."""
    values, table = cohort(n, dim, patients)
    busy: dict[int, float] = {}
    before: dict[int, float] = {}
    largest, done = [0.0], Event()

    def watch() -> None:
        """Processor time and resident memory of this process and its workers; pages they share are counted for each."""
        own = psutil.Process()
        family = [own, *own.children(recursive=True)]  # workers of an earlier audit serve again
        before.update({one.pid: sum(one.cpu_times()[:2]) for one in family})
        while not done.wait(0.5):
            family = [own, *own.children(recursive=True)]
            with contextlib.suppress(psutil.Error):
                for one in family:
                    busy[one.pid] = sum(one.cpu_times()[:2])
                largest[0] = max(largest[0], sum(one.memory_info().rss for one in family) / 1e9)

    watching = Thread(target=watch, daemon=True)
    watching.start()
    began = time.perf_counter()

    def step(done: int, total: int, what: str) -> None:
        print(f"  {time.perf_counter() - began:6.1f} s  {done}/{total} {what}", file=sys.stderr, flush=True)

    found = audit(
        values,
        table,
        patient="patient",
        clinical={"diagnosis": "binary", "grade": "ordinal", "age": "continuous"},
        acquisition={"device": "categorical", "operator": "categorical", "year": "ordinal"},
        further=further,
        progress=step,
    )
    seconds = time.perf_counter() - began
    done.set()
    watching.join()
    return {
        "n": n,
        "dim": dim,
        "patients": patients,
        "further": further,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(sum(its - before.get(pid, 0.0) for pid, its in busy.items()), 1),
        "peak_gb": round(largest[0], 2),
        "verdicts": sorted({pair["verdict"] for pair in found["pairs"]}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--patients", type=int, default=4_000)
    parser.add_argument("--peer", type=int, default=3, help="permutations of the peer; 0 leaves it out")
    parser.add_argument("--whole", type=int, nargs="*", default=[20_000, 100_000])
    parser.add_argument("--probes-only", action="store_true", help="whole audits without what follows for each pair")
    given = parser.parse_args()
    if given.n:
        print(json.dumps(parts(*cohort(given.n, given.dim, given.patients), given.peer)), flush=True)
    for n in given.whole:
        print(json.dumps(whole(n, given.dim, n // 5, not given.probes_only)), flush=True)


if __name__ == "__main__":
    main()
