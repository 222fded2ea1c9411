"""Source audit, audit and clusters give one number for the same pair on the same images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pellucid.cohort.source_audit import source_audit
from pellucid.cohort.study import Study, StudyConfig
from pellucid.explore.clusters.description import associations
from pellucid.probes.audit import audit

CLINICAL = {"diagnosis": "binary", "age": "continuous", "grade": "ordinal", "kind": "categorical"}
ACQUISITION = {"device": "categorical", "side": "binary"}
BASE = {"images": "photos", "table": "clinical.csv", "image": "file", "patient": "id"}


@pytest.fixture(scope="module")
def manifest() -> pd.DataFrame:
    """80 patients of 1 to 5 images; `side` and `kind` vary within patients; `device` and `kind` have rare levels."""
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(80), rng.integers(1, 6, 80))
    n = len(codes)
    device = rng.choice(["A", "B", "C", "D10", "D9"], 80, p=[0.4, 0.3, 0.22, 0.04, 0.04])
    sick = rng.random(80) < np.where(device == "A", 0.7, 0.35)
    frame = pd.DataFrame({"image_id": [f"i{k:04d}" for k in range(n)], "patient": [f"P{c:03d}" for c in codes]})
    frame["status"], frame["reason"], frame["findings"], frame["text_like"], frame["split"] = (
        "ok",
        "",
        "",
        False,
        "train",
    )
    frame["diagnosis"] = np.where(sick, "malignant", "benign")[codes]
    frame["age"] = np.where(rng.random(80) < 0.1, np.nan, rng.normal(60, 10, 80).round())[codes]
    frame["grade"] = (rng.integers(0, 3, 80) + sick)[codes].astype(float)
    frame["kind"] = rng.choice(["x", "y", "z", "rare"], n, p=[0.4, 0.4, 0.18, 0.02])
    frame["device"], frame["side"] = device[codes], rng.choice(["left", "right"], n)
    return frame


@pytest.mark.long
def test_the_same_pair_has_the_same_number_everywhere(manifest: pd.DataFrame) -> None:
    declared = StudyConfig.model_validate(BASE | {"clinical": CLINICAL, "acquisition": ACQUISITION})
    study = Study(Path("study.yaml"), declared)
    told = {(p["clinical"], p["acquisition"]): p for p in source_audit(study, manifest, [])["associations"]}
    shuffled = manifest.sample(frac=1, random_state=1).reset_index(drop=True)  # as an embedding may order its images
    vectors = np.random.default_rng(0).standard_normal((len(manifest), 4))
    found = audit(
        vectors, shuffled, patient="patient", clinical=CLINICAL, acquisition=ACQUISITION,
        permutations=19, bootstrap=50, folds=2, seed=5, further=False,
    )  # fmt: skip
    clinical = [v for v in study.variables if v.role == "clinical"]
    assert len(found["pairs"]) == len(told) == 8
    for pair in found["pairs"]:
        names = pair["clinical"], pair["acquisition"]
        groups = pd.factorize(shuffled[names[1]], sort=True)[0]
        clustered = {item["variable"]: item for item in associations(shuffled, groups, clinical)}[names[0]]
        assert pair["association"]["p_value"] is not None, names
        for key in ("measure", "value", "p_value", "n_patients"):
            assert pair["association"][key] == told[names][key] == clustered[key], (names, key)
    by_q = {names: pair["q_value"] for names, pair in told.items()}
    assert {(p["clinical"], p["acquisition"]): p["association"]["q_value"] for p in found["pairs"]} == by_q
