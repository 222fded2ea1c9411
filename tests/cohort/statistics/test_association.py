"""Association before any model: closed forms, and p-values that keep their level."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2_contingency, spearmanr
from scipy.stats.contingency import association

from pellucid.cohort.statistics.association import assign_q_values, associate, bergsma_v, chi_squared
from pellucid.cohort.statistics.patient_resampling import PatientPermutations, Patients

TABLE = np.array([[30.0, 10.0, 5.0], [8.0, 25.0, 12.0]])


def alone(n):
    return Patients(np.arange(n), n)


def levels(codes):
    return codes, tuple("abcdefgh"[: int(codes.max()) + 1])


def test_patients_are_exchanged_by_number_of_images_where_both_sides_vary(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = []
    plan = PatientPermutations.plan

    def noted(patients, values, block, within):  # type: ignore[no-untyped-def]
        blocks.append(block)
        return plan(patients, values, block, within)

    monkeypatch.setattr(PatientPermutations, "plan", noted)
    rng = np.random.default_rng(0)
    patients = Patients.from_ids(np.repeat(np.arange(40), np.tile([1, 2, 3, 4], 10)))
    by_image, other = rng.integers(0, 2, (2, len(patients)))
    associate(*levels(by_image), *levels(other), patients)
    assert np.array_equal(blocks[0], patients.sizes)


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
    many = associate(*levels(y[codes]), *levels(z[codes]), Patients(codes, 60))
    once = associate(*levels(y), *levels(z), alone(60))
    assert many.value == pytest.approx(once.value)
    assert many.p_value == once.p_value


def test_eta_squared_and_spearman_against_definitions():
    rng = np.random.default_rng(1)
    y, age = rng.integers(0, 3, 90), rng.normal(60, 10, 90)
    age = age + 5 * y
    ranks = np.argsort(np.argsort(age))
    between = sum((y == k).sum() * (ranks[y == k].mean() - ranks.mean()) ** 2 for k in range(3))
    eta = between / ((ranks - ranks.mean()) ** 2).sum()
    found = associate(*levels(y), age, (), alone(90))
    assert found.measure == "eta_squared"
    assert found.value == pytest.approx(1 - (1 - eta) * 89 / 87)
    assert found.p_value <= 0.01
    numbers = associate(age, (), -age + rng.normal(0, 5, 90), (), alone(90))
    assert numbers.measure == "spearman"
    assert numbers.value < -0.5
    assert numbers.p_value == 1 / 5000
    other = rng.normal(size=90)
    assert associate(age, (), other, (), alone(90)).value == pytest.approx(spearmanr(age, other)[0])


@pytest.mark.parametrize("kinds", ["levels", "levels and numbers", "numbers"])
@pytest.mark.parametrize("varying", ["neither", "one", "both"])
def test_neither_the_order_of_columns_nor_that_of_images_nor_codes_matter(kinds: str, varying: str) -> None:
    rng = np.random.default_rng(3)
    patients = Patients(np.repeat(np.arange(50), np.tile([1, 2, 3, 2, 2], 10)), 50)
    n = len(patients)
    a, b = rng.integers(0, 3, n), rng.integers(0, 3, n) + rng.integers(0, 2, 50)[patients.codes]
    first = np.unique(patients.codes, return_index=True)[1]
    if varying != "both":
        a = a[first][patients.codes]
    if varying == "neither":
        b = b[first][patients.codes]
    one = levels(a) if kinds != "numbers" else (a + 0.5, ())
    two = levels(b) if kinds == "levels" else (np.exp(b), ())
    found = associate(*one, *two, patients)
    assert found.p_value is not None
    shuffled = rng.permutation(n)
    again = Patients(patients.codes[shuffled], 50)
    assert associate(one[0][shuffled], one[1], two[0][shuffled], two[1], again) == found
    assert associate(*two, *one, patients) == found
    if kinds != "numbers":
        assert associate(2 - a, tuple("cba"), *two, patients) == found


def test_levels_of_fewer_than_ten_patients_are_left_out_whichever_variable_has_them() -> None:
    rng = np.random.default_rng(0)
    y, z = rng.integers(0, 2, 100), rng.integers(0, 2, 100)
    y[:9], z[95:] = 2, 2  # without these nine and five
    kept = slice(9, 95)
    found = associate(*levels(y), *levels(z), alone(100))
    assert found.n_patients == 86
    assert found == associate(*levels(y[kept]), *levels(z[kept]), alone(86))


def test_leaving_out_a_level_may_make_another_one_rare() -> None:
    y = np.repeat([0, 1, 2, 2], [30, 30, 8, 4])
    z = np.r_[
        np.tile([0, 1], 30), np.full(8, 2), np.zeros(4, np.int64)
    ]  # 8 patients at z = 2: then 4 are left at y = 2
    assert associate(*levels(y), *levels(z), alone(72)).n_patients == 60


@pytest.mark.parametrize(
    ("y", "z", "note"),
    [
        (np.tile([0, 1], 9), np.tile([0, 1], 9), "too few patients (18)"),
        (np.zeros(40, np.int64), np.tile([0, 1], 20), "all have the same value"),
        (
            np.r_[np.zeros(31, np.int64), np.ones(9, np.int64)],
            np.tile([0, 1], 20),
            "fewer than two levels with 10 patients",
        ),
    ],
)
def test_what_cannot_be_tested_says_why(y, z, note) -> None:  # type: ignore[no-untyped-def]
    found = associate(*levels(y), z, tuple("ab"), alone(len(y)))
    assert (found.measure, found.value, found.p_value, found.note) == ("", None, None, note)


def test_p_values_keep_their_level_without_association():
    rejected = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        found = associate(*levels(rng.integers(0, 2, 50)), *levels(rng.integers(0, 3, 50)), alone(50))
        rejected += (found.p_value or 1) <= 0.05
    assert 1 <= rejected <= 21  # binomial(200, 0.05) lies there with probability 0.999


def test_few_patients_of_few_levels_are_tested_at_five_percent_too():
    """Counting ties whole, such tables reject in 1.8 % (by the hypergeometric distribution; 4.6 % with ties halved)."""
    ps = []
    for seed in range(600):
        rng = np.random.default_rng(seed)
        found = associate(*levels(rng.integers(0, 2, 30)), *levels(rng.integers(0, 2, 30)), alone(30))
        ps += [] if found.p_value is None else [found.p_value]
    assert len(ps) > 400
    # binomial(600, 0.046) lies there with probability 0.99; binomial(600, 0.018) under it with 0.95
    assert 17 / 600 <= np.mean(np.array(ps) <= 0.05) <= 42 / 600


def test_q_values_are_those_of_benjamini_and_hochberg() -> None:
    tests = [{"p_value": p} for p in (0.01, None, 0.04, 0.03)]
    assign_q_values(tests)
    assert [test["q_value"] for test in tests] == [pytest.approx(0.03), None, pytest.approx(0.04), pytest.approx(0.04)]
    assign_q_values([])
