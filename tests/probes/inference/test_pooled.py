"""The probe of patients beside that of images."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pellucid.cohort.statistics.patient_resampling import Patients
from pellucid.probes.audit import audit
from pellucid.probes.inference.secondary_probes import pooled

QUICK = {"permutations": 19, "bootstrap": 100, "further": False}


def cohort(seed, images):
    """What a patient has shows in each of her images under noise that the mean of many takes away."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(200), images)
    sick = rng.integers(0, 2, 200)
    vectors = rng.standard_normal((len(codes), 10))
    vectors[:, 0] += sick[codes]
    table = pd.DataFrame({"patient": codes, "diagnosis": sick[codes], "side": np.arange(len(codes)) % 2})
    return vectors.astype(np.float32), table


def test_the_mean_of_each_patients_vectors():
    codes = np.array([1, 0, 1, 2, 1])
    vectors = np.arange(10, dtype=np.float32).reshape(5, 2)
    wanted = [vectors[codes == patient].mean(axis=0) for patient in range(3)]
    np.testing.assert_allclose(pooled(vectors, Patients(codes, 3)), wanted, rtol=1e-6)


def test_many_noisy_images_know_more_together():
    vectors, table = cohort(0, images=8)
    row, side = audit(vectors, table, patient="patient", clinical=["diagnosis", "side"], acquisition=[], **QUICK)[
        "variables"
    ]
    assert row["score"] < 0.82 < 0.92 < row["pooled"]["score"]
    assert row["pooled"]["ci_low"] < row["pooled"]["score"] < row["pooled"]["ci_high"]
    assert side["pooled"] is None  # varies within patients


def test_of_one_image_a_patient_it_is_the_probe_itself():
    vectors, table = cohort(1, images=1)
    row = audit(vectors, table, patient="patient", clinical=["diagnosis"], acquisition=[], **QUICK)["variables"][0]
    np.testing.assert_allclose([row["pooled"][k] for k in ("score", "ci_low", "ci_high")],
                               [row[k] for k in ("score", "ci_low", "ci_high")], atol=1e-6)  # fmt: skip
