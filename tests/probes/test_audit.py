"""The audit in worlds with known answers, its shape, and its refusals."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from pellucid.cohort.errors import UserError
from pellucid.cohort.statistics.patient_resampling import Patients, deal_folds
from pellucid.probes.audit import audit, probe_variables
from pellucid.probes.inference.estimate import probe
from pellucid.probes.inference.statistic import Target
from pellucid.probes.settings import AuditSettings

QUICK = {"permutations": 99, "bootstrap": 100, "further": False}


def world(seed=0, n=160, dim=24, disease=0.0, device=0.0, confounding=0.0, images=(1, 5), fingerprint=1.0):
    """Vectors and table; shifts in units of the noise, the device's direction overlapping the disease's."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(n), rng.integers(images[0], images[1] + 1, n))
    z = rng.integers(0, 2, n)
    y = np.where(rng.random(n) < confounding, z, rng.integers(0, 2, n))
    vectors = fingerprint * rng.standard_normal((n, dim))[codes] + rng.standard_normal((len(codes), dim))
    vectors[:, 0] += disease * y[codes] + 0.45 * device * z[codes]
    vectors[:, 1] += 0.9 * device * z[codes]
    table = pd.DataFrame({"patient": [f"P{c:04d}" for c in codes]})
    table["diagnosis"] = np.where(y[codes] == 1, "malignant", "benign")
    table["device"] = np.where(z[codes] == 1, "GE", "Aloka")
    return vectors.astype(np.float32), table


def run(vectors, table, **more):
    options = {"patient": "patient", "clinical": ["diagnosis"], "acquisition": ["device"], **QUICK, **more}
    return audit(vectors, table, **options)


@pytest.mark.long
@pytest.mark.parametrize(
    ("effects", "verdict"),
    [
        ({"device": 5.0, "confounding": 0.8}, "explained_by_acquisition"),
        ({"disease": 5.0, "confounding": 0.8}, "acquisition_read_through_clinical"),
        ({"disease": 4.0, "device": 4.0, "confounding": 0.6}, "confounded_survives"),
        ({"disease": 4.0, "device": 4.0}, "encoded_not_confounded"),
        ({"disease": 4.0, "device": 4.0, "confounding": 1.0}, "cannot_be_separated"),
        ({"device": 5.0}, "clinical_not_encoded"),
        ({"disease": 5.0}, "not_associated_not_encoded"),
        ({"confounding": 0.8}, "associated_not_encoded"),
    ],
)
def test_each_world_gets_its_verdict(effects, verdict):
    found = [run(*world(seed, **effects), seed=seed)["pairs"][0]["verdict"] for seed in (1, 2)]
    assert found == [verdict] * 2


def test_a_diagnosis_that_exists_only_through_the_device_is_called_exactly_that():
    pair = run(*world(1, device=5.0, confounding=0.8))["pairs"][0]
    assert pair["accused"]
    assert pair["clinical_beyond_acquisition"]["score"] < 0.65
    assert pair["clinical_from_acquisition"]["score"] > 0.8
    assert pair["association"]["measure"] == "cramers_v"
    assert "the prediction of diagnosis is explained by device." in pair["sentence"]
    assert pair["note"].startswith("No patient has images of two levels of device: these data do not show")


@pytest.mark.long
def test_harmless_factor_is_not_accused_and_the_guilty_one_is():
    vectors, table = world(4, disease=3.0, device=5.0, confounding=0.7)
    rng = np.random.default_rng(9)
    codes = table["patient"].str[1:].astype(int)
    operator = rng.integers(0, 3, 160)[codes]
    vectors[:, 5] += 4.0 * (operator == 1)
    table["operator"] = np.array(["Ann", "Bo", "Cy"])[operator]
    table["year"] = rng.integers(2015, 2021, 160)[codes]
    result = run(vectors, table, acquisition=["device", "operator", "year"])
    assert [a["acquisition"] for a in result["accused"]] == ["device"]
    verdicts = {p["acquisition"]: p["verdict"] for p in result["pairs"]}
    assert verdicts["operator"] == "encoded_not_confounded"


@pytest.mark.long
def test_the_result_is_json_of_the_schema_and_depends_only_on_the_seed():
    vectors, table = world(0, disease=3.0, n=60)
    table["age"] = np.random.default_rng(0).normal(60, 9, 60)[table["patient"].str[1:].astype(int)]
    calls = []
    first = run(vectors, table, clinical=["diagnosis", "age"], progress=lambda *step: calls.append(step), further=True,
                permutations=119)  # fmt: skip
    assert json.loads(json.dumps(first, allow_nan=False)) == first
    assert first["schema"] == "pellucid.audit/1"
    assert calls[-1] == (10, 10, "done")
    assert [c[0] for c in calls] == sorted(c[0] for c in calls)
    alone = run(vectors, table, permutations=119)
    blank = {"q_value": 0, "few_labels": []}
    assert alone["variables"][0] | blank == first["variables"][0] | blank
    assert {**alone["pairs"][0]["clinical_beyond_acquisition"], "q_value": 0} == {
        **first["pairs"][0]["clinical_beyond_acquisition"], "q_value": 0,
    }  # fmt: skip
    wanted = (
        "name role kind levels n_images n_patients n_events metric score ci_low ci_high chance p_value q_value "
        "detectable probe saturated note"
    )
    assert set(wanted.split()) <= set(first["variables"][0])
    diagnosis, age = first["variables"][:2]
    assert (diagnosis["kind"], diagnosis["metric"], diagnosis["levels"]) == ("binary", "auroc", ["benign", "malignant"])
    assert (age["kind"], age["metric"], age["chance"], age["n_events"]) == ("continuous", "spearman", 0.0, None)
    assert age["r2"] < 0.2
    assert diagnosis["ci_low"] < diagnosis["score"] < diagnosis["ci_high"]
    rows = probe_variables(
        vectors,
        table,
        patient="patient",
        clinical=["diagnosis", "age"],
        acquisition=["device"],
        settings=AuditSettings(**QUICK),
    )
    assert [{**row, "few_labels": []} for row in first["variables"]] == rows
    pair = first["pairs"][0]
    assert pair["transfer"]["within"] > 0.65
    assert {"robustness_index", "chance", "kbet_rejection", "ilisi"} <= set(pair["neighbours"])
    assert [one["name"] for one in pair["remedies"]][:3] == ["none", "leace", "residual"]
    assert first["variables"][0]["few_labels"][-1]["share"] == 1.0


def test_a_continuous_variable_is_read_with_spearman_and_r2():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((200, 10)).astype(np.float32)
    table = pd.DataFrame({"patient": np.arange(200), "size": vectors[:, 0] + 0.5 * rng.standard_normal(200)})
    row = probe_variables(
        vectors, table, patient="patient", clinical=["size"], acquisition=[], settings=AuditSettings(**QUICK)
    )[0]
    assert row["score"] > 0.8
    assert row["r2"] == pytest.approx(0.8, abs=0.08)
    assert row["p_value"] == 0.01


def test_few_patients_give_a_sentence_and_no_number():
    vectors, table = world(0, n=40)
    few = table["patient"].isin(table["patient"].unique()[:7])
    table["diagnosis"] = np.where(few, "malignant", "benign")
    result = run(vectors, table)
    row, pair = result["variables"][0], result["pairs"][0]
    assert row["score"] is row["p_value"] is row["ci_low"] is None
    assert row["note"] == "too few patients (7 with malignant; 10 needed)."
    assert pair["verdict"] == "too_few_patients"
    assert pair["sentence"].startswith("Inconclusive for diagnosis and device: diagnosis: too few patients (7")


def test_rare_levels_are_left_out_and_missing_values_reported():
    vectors, table = world(0, n=80)
    ids = table["patient"].unique()
    table.loc[table["patient"].isin(ids[:4]), "device"] = "Old"
    table.loc[table["patient"].isin(ids[4:9]), "device"] = None
    row = run(vectors, table)["variables"][1]
    assert row["kind"] == "categorical"
    assert row["levels"] == ["Aloka", "GE"]
    assert row["n_missing"] == int(table["device"].isna().sum())
    assert row["n_patients"] == 71
    assert "(5 patients) have no value and are excluded from this variable." in row["note"]
    assert "Left out, under 10 patients: Old (4)." in row["note"]


@pytest.mark.long
def test_saturation_is_said():
    row = run(*world(0, device=20.0))["variables"][1]
    assert row["saturated"]
    assert "Saturated" in row["note"]
    assert row["ci_low"] > 0.9


@pytest.mark.long
def test_detectable_effect_shrinks_with_more_patients():
    small, large = (run(*world(0, n=n))["variables"][0]["detectable"] for n in (60, 400))
    assert 0.5 < large < small < 0.9


def drop(table, rows):
    return table.drop(index=rows)


MISTAKES = [
    (lambda v, t: (v[:-3], t), {}, r"There are \d+ vectors but \d+ rows in the table; they must be the same images"),
    (lambda v, t: (np.where(np.arange(len(v))[:, None] == 4, np.nan, v), t), {},
     r"1 of \d+ vectors contain NaN or infinite values \(the first is row 5\); embed those images again"),
    (lambda v, t: (v, t.assign(device="GE")), {}, r'Variable "device" is constant: every row is "GE"'),
    (lambda v, t: (v, t.assign(patient="P1")), {}, r'Column "patient" contains one patient only'),
    (lambda v, t: (v, t), {"clinical": ["diagnosys"]}, (r'The table has no column "diagnosys"; did you mean '
                                                       r'"diagnosis"\?')),
    (lambda v, t: (v, t), {"patient": "pat"}, r'The table has no column "pat"; did you mean "patient"\?'),
    (lambda v, t: (v, t.assign(device="X" + t["patient"])), {},
     r'Variable "device" has a different level for each of the 160 patients: it identifies the patient'),
    (lambda v, t: (v, t.assign(patient=t["patient"].where(t.index != 2))), {},
     r'Column "patient": 1 of \d+ rows have no patient id \(the first is row 3\)'),
    (lambda v, t: (v, t), {"clinical": ["patient"]}, r'"patient" is the patient column'),
    (lambda v, t: (v, t), {"clinical": {"diagnosis": "nominal"}}, (r'unknown kind "nominal"; use one of binary, '
                                                                  r'categorical')),
    (lambda v, t: (v, t), {"clinical": {"diagnosis": "continuous"}},
     r'"diagnosis" has the kind continuous but contains "(benign|malignant)", which is not a number'),
    (lambda v, t: (v, t), {"clinical": ["device"]}, r'"device" is named both clinical and acquisition'),
    (lambda v, t: (v[:, 0], t), {}, r"The vectors have shape \(\d+,\)"),
    (lambda v, t: (v, t), {"permutations": 5}, r"permutations is 5; at least 19 are needed"),
    (lambda v, t: (v, t.assign(device=np.nan)), {}, r'Variable "device" is empty: no row has a value'),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "options", "message"), MISTAKES)
def test_wrong_input_gets_a_sentence_never_a_number(spoil, options, message):
    vectors, table = world(0)
    with pytest.raises(UserError, match=message):
        run(*spoil(vectors, table), **options)


def test_without_strict_a_constant_column_is_listed_with_its_sentence():
    vectors, table = world(0, n=60)
    result = run(vectors, table.assign(site="Lille"), acquisition=["device", "site"], strict=False)
    row = result["variables"][2]
    assert row["score"] is None
    assert row["note"].startswith('Variable "site" is constant')
    assert result["pairs"][1]["verdict"] == "too_few_patients"


# --- truth: rates over many cohorts, the interval left out for speed -------------------------------------------------


def p_values(draw, repetitions, **more):
    found = []
    for seed in range(repetitions):
        vectors, target, patients, strata = draw(np.random.default_rng([seed, 11]))
        found.append(probe(vectors, target, patients, strata=strata, permutations=39, seed=seed, p_value_only=True))
    return np.array([e.p_value for e in found]), np.array([e.score for e in found])


def no_effect(rng, n=40, dim=10, spread=1.0, conditional=False, within=False, ranked=False):
    codes = np.repeat(np.arange(n), rng.integers(1, 6, n))
    z = np.arange(n) % 2
    y = np.where(rng.random(n) < 0.3, z, rng.integers(0, 2, n)) if conditional else rng.permutation(np.arange(n) % 2)
    vectors = spread * rng.standard_normal((n, dim))[codes] + rng.standard_normal((len(codes), dim))
    if conditional:
        vectors[:, 0] += 6 * z[codes]
    data = rng.integers(0, 2, len(codes)) if within else y[codes]
    target = Target((y + rng.standard_normal(n))[codes], 0) if ranked else Target(data, 2)
    return vectors.astype(np.float32), target, Patients(codes, n), z[codes] if conditional else None


@pytest.mark.long
@pytest.mark.parametrize(
    "kind",
    [
        {},
        pytest.param({"spread": 6.0}, marks=pytest.mark.slow),
        {"conditional": True},
        pytest.param({"within": True}, marks=pytest.mark.slow),
        pytest.param({"ranked": True}, marks=pytest.mark.slow),
        pytest.param({"dim": 60}, marks=pytest.mark.slow),
    ],
    ids=["no effect", "fingerprint", "conditional", "within patients", "continuous", "more dimensions than patients"],
)
def test_null_worlds_are_rejected_about_as_often_as_the_level_says(kind):
    p, score = p_values(lambda rng: no_effect(rng, **kind), 150)
    assert 1 <= (p <= 0.05).sum() <= 17  # binomial(150, 0.05) lies there with probability 0.998
    assert 15 <= (p <= 0.2).sum() <= 47  # binomial(150, 0.2), the same
    chance = 0.0 if kind.get("ranked") else 0.5
    assert abs(score.mean() - chance) < 4 * score.std() / np.sqrt(150)


@pytest.mark.long
def test_a_planted_effect_is_found_and_its_interval_covers():
    scores, covered = [], []
    for seed in range(24):
        vectors, table = world(seed, n=100, dim=12, disease=2.0)
        codes = Patients.from_ids(table["patient"].to_numpy(str))
        target = Target((table["diagnosis"] == "malignant").to_numpy().astype(np.int64), 2)
        found = probe(vectors, target, codes, permutations=39, bootstrap=100, seed=seed)
        assert found.p_value <= 0.05
        scores.append(found.score)
        covered.append((found.ci_low, found.ci_high))
    low, high = np.array(covered).T
    assert ((low <= np.mean(scores)) & (np.mean(scores) <= high)).mean() >= 0.8


def test_an_anti_signal_stays_below_one_half():
    """Every fold is made to say the opposite of what the others teach; the answer is under 0.5 and no evidence."""
    y = np.arange(100) % 2
    patients = Patients(np.arange(100), 100)
    fold_seed = np.random.SeedSequence(3).spawn(2)[0]
    folds = deal_folds(y, 5, np.random.default_rng(fold_seed))  # as `probe` deals them for seed 3
    sign = 2.0 * y - 1.0
    vectors = sign[:, None] * (1.0 - 5.0 * np.eye(5)[folds]) + np.random.default_rng(0).standard_normal((100, 5))
    found = probe(vectors, Target(y, 2), patients, permutations=99, bootstrap=50, seed=3)
    assert found.score < 0.3
    assert found.ci_high < 0.5
    assert found.p_value > 0.9


def test_vectors_that_are_all_the_same_are_refused() -> None:
    table = pd.DataFrame({"who": np.repeat(np.arange(30), 2), "device": np.tile(["a", "b"], 30)})
    with pytest.raises(UserError, match="All vectors are identical"):
        audit(np.ones((60, 4)), table, patient="who", clinical=[], acquisition=["device"])


@pytest.mark.long
def test_a_gross_confounder_is_not_acquitted_by_too_few_permutations():
    """One true pair of nine: with 99 permutations its smallest q-value would be 0.09."""
    vectors, table = world(2, device=6.0, confounding=0.9)
    rng = np.random.default_rng(1)
    codes = table["patient"].str[1:].astype(int)
    for name in ("a", "b"):
        table[name] = rng.integers(0, 2, 160)[codes]
        table[f"{name}_site"] = rng.integers(0, 2, 160)[codes]
    found = run(vectors, table, clinical=["diagnosis", "a", "b"], acquisition=["device", "a_site", "b_site"])
    assert found["settings"]["permutations"] == 359
    assert "359 permutations were drawn, not 99" in found["notes"][0]
    assert found["pairs"][0]["verdict"] == "explained_by_acquisition"


def test_the_front_door_has_the_function_not_the_command():
    import pellucid

    assert pellucid.audit is audit


def test_a_slip_among_numbers_and_what_is_no_array_get_a_sentence():
    vectors, table = world(0)
    ages = pd.Series(np.arange(len(table)) % 60 + 20).astype(object)
    ages[3] = "62y"
    with pytest.raises(UserError, match='holds "62y" among numbers'):
        run(vectors, table.assign(age=ages), clinical=["age"])
    with pytest.raises(UserError, match="a pandas DataFrame"):
        run(vectors, table.to_dict())
    with pytest.raises(UserError, match="a NumPy array"):
        run(vectors.tolist(), table)
