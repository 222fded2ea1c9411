"""Association before any model: closed forms, and p-values that keep their level."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2_contingency, spearmanr
from scipy.stats.contingency import association

from pellucid.cohort.statistics.association import associate, bergsma_v, chi_squared
from pellucid.cohort.statistics.patient_resampling import PatientPermutations, Patients

TABLE = np.array([[30.0, 10.0, 5.0], [8.0, 25.0, 12.0]])


def alone(n):
    return Patients(np.arange(n), n)


def test_patients_are_exchanged_by_number_of_images_where_both_sides_vary(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = []
    plan = PatientPermutations.plan

    def noted(patients, values, block, within):  # type: ignore[no-untyped-def]
        blocks.append(block)
        return plan(patients, values, block, within)

    monkeypatch.setattr(PatientPermutations, "plan", noted)
    rng = np.random.default_rng(0)
    patients = Patients.of(np.repeat(np.arange(40), np.tile([1, 2, 3, 4], 10)))
    by_image, by_patient = rng.integers(0, 2, (2, len(patients)))
    by_patient = by_patient[patients.codes]
    for left, right in ((by_image, by_image[::-1]), (by_image, by_patient), (by_patient, by_image)):
        associate(left, 2, right, 2, patients, permutations=19)
    assert np.array_equal(blocks[0], patients.sizes)
    assert not blocks[1].any()
    assert not blocks[2].any()


def test_chi_squared_is_scipys():
    assert chi_squared(TABLE) == pytest.approx(chi2_contingency(TABLE, correction=False)[0])


def test_bergsma_v_by_its_formula():
    n, phi2 = TABLE.sum(), chi_squared(TABLE) / TABLE.sum()
    corrected = phi2 - 2 / (n - 1)
    rows, columns = 2 - 1 / (n - 1), 3 - 4 / (n - 1)
    assert bergsma_v(TABLE) == pytest.approx(np.sqrt(corrected / min(rows - 1, columns - 1)))
    assert bergsma_v(TABLE) < association(TABLE.astype(int), method="cramer")


@pytest.mark.parametrize(("table", "value"), [(np.full((2, 2), 20.0), 0.0), (np.diag([50.0, 50.0]), 1.0)])
def test_bergsma_v_at_its_ends(table, value):
    assert bergsma_v(table) == pytest.approx(value)


def test_ten_images_of_a_patient_are_one_patient():
    rng = np.random.default_rng(0)
    y, z = rng.integers(0, 2, 60), rng.integers(0, 3, 60)
    codes = np.repeat(np.arange(60), rng.integers(1, 11, 60))
    many = associate(y[codes], 2, z[codes], 3, Patients(codes, 60), 99)
    once = associate(y, 2, z, 3, alone(60), 99)
    assert many.value == pytest.approx(once.value)
    assert many.p_value == once.p_value


def test_eta_squared_and_spearman_against_definitions():
    rng = np.random.default_rng(1)
    y, age = rng.integers(0, 3, 90), rng.normal(60, 10, 90)
    age = age + 5 * y
    ranks = np.argsort(np.argsort(age))
    between = sum((y == k).sum() * (ranks[y == k].mean() - ranks.mean()) ** 2 for k in range(3))
    eta = between / ((ranks - ranks.mean()) ** 2).sum()
    forward, back = associate(y, 3, age, 0, alone(90), 199), associate(age, 0, y, 3, alone(90), 199)
    assert forward.measure == back.measure == "eta_squared"
    assert forward.value == pytest.approx(eta)
    assert back.value == pytest.approx(eta)
    assert forward.p_value <= 0.01
    numbers = associate(age, 0, -age + rng.normal(0, 5, 90), 0, alone(90), 199)
    assert numbers.measure == "spearman"
    assert numbers.value < -0.5
    assert numbers.p_value == 1 / 200
    other = rng.normal(size=90)
    assert associate(age, 0, other, 0, alone(90), 19).value == pytest.approx(spearmanr(age, other)[0])


def test_p_values_keep_their_level_without_association():
    rejected = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        rejected += associate(rng.integers(0, 2, 50), 2, rng.integers(0, 3, 50), 3, alone(50), 39, seed).p_value <= 0.05
    assert 1 <= rejected <= 21  # binomial(200, 0.05) lies there with probability 0.999


def test_few_patients_of_few_levels_are_tested_at_five_percent_too():
    """Counting ties whole, such tables reject in 1.8 % (by the hypergeometric distribution; 4.6 % with ties halved)."""
    rejected = 0
    for seed in range(600):
        rng = np.random.default_rng(seed)
        rejected += associate(rng.integers(0, 2, 30), 2, rng.integers(0, 2, 30), 2, alone(30), 99, seed).p_value <= 0.05
    assert (
        17 <= rejected <= 42
    )  # binomial(600, 0.046) lies there with probability 0.99; binomial(600, 0.018) under it with 0.95
