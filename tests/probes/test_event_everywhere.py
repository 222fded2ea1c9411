"""Source audit, probes, report and terminal name the same event of a two-level variable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from pellucid.cli.app import app
from pellucid.cohort.errors import UserError
from pellucid.cohort.source_audit import source_audit
from pellucid.cohort.study import Study, StudyConfig
from pellucid.explore.sections.source_sections import sections
from pellucid.probes.audit import audit, probe_variables
from pellucid.probes.settings import AuditSettings

BASE = {
    "images": "photos",
    "table": "clinical.csv",
    "image": "file",
    "patient": "id",
    "acquisition": {"device": "binary"},
}
QUICK = {"permutations": 19, "bootstrap": 50, "further": False}
SENTENCE = "`diagnosis`: `benign` is treated as the event because it is the rarer level; set `positive`"


def study_of(declared: Any) -> Study:
    return Study(Path("study.yaml"), StudyConfig.model_validate(BASE | {"clinical": {"diagnosis": declared}}))


def manifest_of(levels: dict[str, int]) -> pd.DataFrame:
    """One image a patient of the first level, three of each of the second: the rarer by patients is not that by
    images."""
    (first, n), (second, m) = levels.items()
    patients = [*range(n), *(n + i for i in range(m) for _ in range(3))]
    frame = pd.DataFrame(
        {"image_id": [f"i{k}" for k in range(len(patients))], "patient": [f"P{p:03d}" for p in patients]}
    )
    frame["status"], frame["reason"], frame["findings"], frame["text_like"], frame["split"] = (
        "ok",
        "",
        "",
        False,
        "train",
    )
    frame["diagnosis"] = [first if p < n else second for p in patients]
    frame["device"] = ["A" if p % 2 else "B" for p in patients]
    return frame


def events(levels: dict[str, int], declared: Any = "binary") -> tuple[dict[str, Any], dict[str, Any]]:
    """source.json and the row of `diagnosis` in probes.json."""
    study, manifest = study_of(declared), manifest_of(levels)
    positive = {v.name: v.positive for v in study.variables if v.positive}
    vectors = np.random.default_rng(0).standard_normal((len(manifest), 4))
    [row] = probe_variables(
        vectors,
        manifest,
        patient="patient",
        clinical={"diagnosis": "binary"},
        acquisition=[],
        positive=positive,
        settings=AuditSettings(**QUICK),
    )
    return source_audit(study, manifest, []), row


@pytest.mark.parametrize(
    ("levels", "declared", "event"),
    [
        ({"malignant": 40, "benign": 20}, "binary", "malignant"),
        ({"kind A": 40, "kind B": 20}, "binary", "kind B"),
        ({"malignant": 40, "benign": 20}, {"kind": "binary", "positive": "benign"}, "benign"),
        ({"kind A": 40, "kind B": 20}, {"kind": "binary", "positive": "kind A"}, "kind A"),
    ],
)
def test_the_same_event_everywhere(levels: dict[str, int], declared: Any, event: str) -> None:
    source, row = events(levels, declared)
    [size] = source["sample_size"]
    assert (size["event"], size["n_events"]) == (event, levels[event])
    assert (row["event"], row["levels"][-1], row["n_events"]) == (event, event, levels[event])
    assert source["factors"][0]["levels"][0]["events"]["diagnosis"]["event"] == event  # of the figure


def test_a_choice_by_rarity_is_reported() -> None:
    source, row = events({"other": 40, "benign": 20})
    sentence = f"{SENTENCE} in study.yaml to choose."
    assert sentence in source["sentences"]  # what the terminal shows
    shown = next(section for section in sections(source, {}) if section.key == "enough")
    assert sentence in shown.sentences
    assert f"{SENTENCE} to choose." in row["note"]
    source, row = events({"malignant": 40, "benign": 20})
    assert not [s for s in source["sentences"] if "treated as the event" in s]
    assert "treated as the event" not in row["note"]


def test_of_arrays_an_option_and_an_argument_choose(tmp_path: Path) -> None:
    manifest = manifest_of({"other": 40, "benign": 20})
    vectors = np.random.default_rng(0).standard_normal((len(manifest), 4))
    np.save(tmp_path / "v.npy", vectors)
    manifest.to_csv(tmp_path / "t.csv", index=False)
    command = ["audit", "--vectors", str(tmp_path / "v.npy"), "--table", str(tmp_path / "t.csv"),
               "--patient", "patient", "--clinical", "diagnosis", "--out", str(tmp_path), "--permutations",
               "19", "--brief"]  # fmt: skip
    said = CliRunner().invoke(app, command)
    assert f"{SENTENCE} to choose." in " ".join(said.output.split())
    said = CliRunner().invoke(app, [*command, "--positive", "diagnosis=other"])
    assert "treated as the event" not in said.output
    assert json.loads((tmp_path / "audit.json").read_text())["variables"][0]["event"] == "other"
    asked = {"patient": "patient", "clinical": ["diagnosis"], "acquisition": ["device:categorical"]}
    for positive, message in (
        ({"diagnosis": "odd"}, "no level `odd`, which `positive` names; the levels are `benign`, `other`"),
        ({"diagnose": "other"}, 'names "diagnose", which is neither'),
        ({"device": "A"}, 'names "device", which is categorical'),
    ):
        with pytest.raises(UserError, match=message):
            audit(vectors, manifest, positive=positive, **asked, **QUICK)
