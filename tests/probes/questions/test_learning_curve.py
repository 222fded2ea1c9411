"""Few labelled patients: the curve rises with a signal, stays at chance without, and leaves out what cannot be
asked."""

from __future__ import annotations

import numpy as np

from pellucid.cohort.statistics.patient_resampling import Patients
from pellucid.probes.inference.statistic import Target
from pellucid.probes.questions.learning_curve import few_label_curve


def curve(shift: float, n: int, seed: int = 0) -> list[dict[str, float]]:
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(n), 3)
    y = rng.permutation(np.arange(n) % 2)
    x = rng.normal(size=(n, 20))[ids] + 0.3 * rng.normal(size=(3 * n, 20))
    x[:, 0] += shift * y[ids]
    return few_label_curve(x, Target(y[ids], 2), Patients(ids, n), seed)


def test_more_patients_teach_more() -> None:
    found = curve(2.5, 200)
    assert [row["share"] for row in found] == [0.05, 0.1, 0.2, 0.5, 1.0]
    assert [row["n_patients"] for row in found] == [8, 16, 32, 80, 160]
    assert found[0]["score"] < found[-1]["score"] - 0.05
    assert found[-1]["score"] > 0.9


def test_without_a_signal_it_is_chance_all_along() -> None:
    scores = np.mean([[row["score"] for row in curve(0.0, 100, seed)] for seed in range(8)], axis=0)
    assert np.abs(scores - 0.5).max() < 0.06


def test_shares_of_too_few_patients_are_left_out() -> None:
    assert [row["share"] for row in curve(2.0, 24)] == [0.5, 1.0]


def test_grades_and_very_many_patients() -> None:
    rng = np.random.default_rng(0)
    grade = np.repeat(np.arange(4), 50).astype(float)
    x = rng.normal(size=(200, 6))
    x[:, 0] += grade
    assert few_label_curve(x, Target(grade, 0), Patients(np.arange(200), 200))[-1]["score"] > 0.6
    n = 6_000
    y = np.arange(n) % 2
    x = rng.normal(size=(n, 3))
    x[n // 2 :, 0] += 2.0 * y[n // 2 :]  # only the later half has the sign: a lot of all of them must be drawn
    found = few_label_curve(x, Target(y, 2), Patients(np.arange(n), n))
    assert found[-1]["n_patients"] == 4_000
    assert found[-1]["score"] > 0.6
