"""Time to an event through the whole audit: level, power, coverage, verdicts and refusals in worlds with known
hazards."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pellucid.cohort.errors import UserError
from pellucid.cohort.statistics.patient_resampling import Patients
from pellucid.cohort.study import load_study
from pellucid.probes.audit import audit
from pellucid.probes.inference.estimate import probe
from pellucid.probes.inputs.time_to_event import read_time_to_event
from pellucid.probes.questions.variable_rows import target_of
from pellucid.probes.stage import named_variables

QUICK = {"permutations": 99, "bootstrap": 100, "further": False}


def world(seed, n=150, disease=0.0, device=0.0, confounding=0.0, dim=12):
    """Exponential times whose hazard doubles twice with `sick`; half of the patients are lost before."""
    rng = np.random.default_rng([seed, 77])
    codes = np.repeat(np.arange(n), rng.integers(1, 4, n))
    z = rng.integers(0, 2, n)
    sick = np.where(rng.random(n) < confounding, z, rng.integers(0, 2, n))
    event = rng.exponential(1.0, n) / 4.0**sick
    lost = rng.exponential(1.0, n)
    vectors = rng.standard_normal((n, dim))[codes] + rng.standard_normal((len(codes), dim))
    vectors[:, 0] += disease * sick[codes] + 0.45 * device * z[codes]
    vectors[:, 1] += 0.9 * device * z[codes]
    table = pd.DataFrame(
        {
            "patient": codes,
            "months": np.round(12 * np.minimum(event, lost), 1)[codes],
            "died": (event <= lost).astype(int)[codes],
            "device": np.where(z[codes] == 1, "GE", "Aloka"),
        }
    )
    return vectors.astype(np.float32), table


def of(vectors, table, seed=0, **more):
    patients = Patients.from_ids(table["patient"].to_numpy())
    variable = read_time_to_event(table, "months/died", "clinical", patients)
    target, _ = target_of(variable, variable.usable)
    return probe(vectors, target, patients, seed=seed, **{"permutations": 99, "bootstrap": 100, **more})


@pytest.mark.long
def test_level_and_coverage_without_any_effect():
    found = [of(*world(seed, n=80), seed=seed) for seed in range(60)]
    assert all(one.metric == "concordance" and one.chance == 0.5 for one in found)
    assert np.mean([one.p_value <= 0.05 for one in found]) <= 0.15  # 9 of 60 has a chance of 0.2 % at 5 %
    expected = np.mean([one.score for one in found])
    assert abs(expected - 0.5) < 0.03
    assert np.mean([one.ci_low <= expected <= one.ci_high for one in found]) >= 0.85


@pytest.mark.long
def test_power_and_coverage_of_an_effect():
    found = [of(*world(seed, n=200, disease=4.0), seed=seed) for seed in range(30)]
    assert np.mean([one.p_value <= 0.05 for one in found]) >= 0.9
    expected = np.mean([one.score for one in found])
    assert expected > 0.58
    assert np.mean([one.ci_low <= expected <= one.ci_high for one in found]) >= 0.8


@pytest.mark.long
def test_a_survival_that_exists_only_through_the_device_is_not_read_beyond_it():
    found = [
        audit(
            *world(seed, n=240, device=5.0, confounding=0.95), patient="patient", clinical=["months/died"],
            acquisition=["device"], seed=seed, **QUICK,
        )["pairs"][0]
        for seed in range(8)
    ]  # fmt: skip
    assert all(pair["association"]["p_value"] <= 0.05 for pair in found)
    assert sum(pair["clinical_beyond_acquisition"]["p_value"] <= 0.05 for pair in found) <= 2
    assert sum(pair["verdict"] == "explained_by_acquisition" for pair in found) >= 5


@pytest.mark.long
def test_everything_the_audit_asks_has_an_answer():
    vectors, table = world(1, n=200, disease=4.0, device=3.0, confounding=0.5)
    table.loc[table["patient"] < 20, "died"] = np.nan
    found = audit(
        vectors,
        table,
        patient="patient",
        clinical=["months/died"],
        acquisition=["device"],
        permutations=99,
        bootstrap=100,
    )
    row, pair = found["variables"][0], found["pairs"][0]
    assert (row["kind"], row["metric"], row["r2"]) == ("time_to_event", "concordance", None)
    assert row["n_events"] == row["level_patients"]["event"] >= 60
    assert row["n_missing"] == (table["patient"] < 20).sum()
    assert row["missing"]["p_value"] is not None
    assert row["ci_low"] < row["score"] < row["ci_high"]
    assert row["score"] > 0.6
    assert row["knn"]["score"] > 0.5
    assert row["logistic"] is None
    assert row["few_labels"]
    assert pair["clinical_beyond_acquisition"]["metric"] == "concordance"
    assert pair["transfer"]["within"] > 0.5
    assert pair["neighbours"]["note"].startswith("months/died in strata")
    assert {r["name"] for r in pair["remedies"]} >= {"none", "leace", "residual"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"died": "maybe"}, 'holds "maybe"; write 1 where the event came'),
        ({"died": 0}, "no patient had the event"),
        ({"months": -1.0}, "numbers from 0"),
        ({"months": "long"}, "numbers from 0"),
        ({"months": np.nan}, "no row has both"),
    ],
)
def test_mistakes_get_a_sentence(change, message):
    vectors, table = world(0, n=40)
    with pytest.raises(UserError, match=message):
        audit(vectors, table.assign(**change), patient="patient", clinical=["months/died"], acquisition=["device"])


def test_half_a_pair_and_a_wrong_kind_get_a_sentence():
    vectors, table = world(0, n=40)
    given = {"patient": "patient", "acquisition": ["device"]}
    for clinical, message in (
        (["months/dead"], 'no column "dead"; did you mean "died"'),
        (["months:contnuous"], 'unknown kind "contnuous"'),
        ({"months": "time_to_event"}, "name both columns"),
        ({"months/died": "ordinal"}, "its kind is time_to_event"),
    ):
        with pytest.raises(UserError, match=message):
            audit(vectors, table, clinical=clinical, **given)


def test_too_few_events_are_no_number():
    vectors, table = world(0, n=60)
    table["died"] = (table["patient"] < 4).astype(int)
    row = audit(vectors, table, patient="patient", clinical=["months/died"], acquisition=["device"], **QUICK)[
        "variables"
    ][0]
    assert row["score"] is None
    assert row["note"].startswith("too few patients (4 with the event; 10 needed)")


def test_a_time_that_cannot_be_read_does_not_end_the_others():
    vectors, table = world(0, n=60)
    found = audit(vectors, table.assign(died=0), patient="patient", clinical=["months/died"], acquisition=["device"],
                  strict=False, **QUICK)  # fmt: skip
    row, device = found["variables"]
    assert (row["score"], row["n_events"]) == (None, None)
    assert "no patient had the event" in row["note"]
    assert device["score"] is not None


def test_where_events_are_few_nothing_that_follows_is_a_number():
    """Two events beside a device that most patients have no record of: no transfer, no remedies."""
    vectors, table = world(3, n=300)
    known = table["patient"] < 100
    table["device"] = np.where(known, table["device"], None)
    table.loc[known & (table["patient"] >= 2), "died"] = 0
    pair = audit(vectors, table, patient="patient", clinical=["months/died"], acquisition=["device"],
                 permutations=19, bootstrap=50)["pairs"][0]  # fmt: skip
    assert pair["clinical_beyond_acquisition"]["score"] is None
    assert pair["transfer"]["within"] is None
    assert "10 patients with the event" in pair["transfer"]["note"]
    assert [r["acquisition"] for r in pair["remedies"]] == [{}]


def test_few_labels_count_events():
    vectors, table = world(1, n=300)
    dead = table.groupby("patient")["died"].transform("max").astype(bool) & (table["patient"] % 12 == 0)
    table["died"] = dead.astype(int)
    row = audit(
        vectors, table, patient="patient", clinical=["months/died"], acquisition=[], permutations=19, bootstrap=50
    )["variables"][0]
    assert row["n_events"] <= 25
    assert min(point["share"] for point in row["few_labels"]) >= 0.2


def test_two_ends_may_share_their_time(tmp_path):
    named = named_variables(study_of(tmp_path), ["months/died", "months/relapsed"])
    assert named["clinical"] == {"grade": "ordinal", "months/died": "time_to_event", "months/relapsed": "time_to_event"}
    with pytest.raises(
        UserError, match='"months/dead" is to be "time/event", two of the clinical variables: months, died'
    ):
        named_variables(study_of(tmp_path), ["months/dead"])


def study_of(folder):
    (folder / "images").mkdir(exist_ok=True)
    (folder / "table.csv").write_text("file,patient,months,died,relapsed,grade,device\n")
    (folder / "study.yaml").write_text(
        "images: images\ntable: table.csv\nimage: file\npatient: patient\n"
        "clinical: {months: continuous, died: binary, relapsed: binary, grade: ordinal}\nacquisition: {device: "
        "categorical}\n"
    )
    return load_study(folder / "study.yaml")


def test_the_reason_of_a_refusal_is_the_right_one():
    vectors, table = world(0, n=15)
    table["died"] = 1
    row = audit(vectors, table, patient="patient", clinical=["months/died"], acquisition=["device"], **QUICK)[
        "variables"
    ][0]
    assert row["note"].startswith("too few patients (15; 20 needed)")
