"""The report is one self-contained page without identifiers, and a table's cells cannot inject markup."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pellucid.cohort.runs.atomic_files import write_json
from pellucid.cohort.runs.folder import RunFolder
from pellucid.explore import study_findings, wording
from pellucid.explore.report.page import render
from pellucid.explore.thumbnails import data_uri, thumbnails


class _Links(HTMLParser):
    """Every address in an attribute, every tag, and the text outside scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self._inside: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._inside = tag if tag in {"script", "style"} else None
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "action", "data"}]

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside is None:
            self.text.append(data)


def _page(whole: Any) -> tuple[str, _Links]:
    page = (whole.report().path / "report.html").read_text(encoding="utf-8")
    parsed = _Links()
    parsed.feed(page)
    return page, parsed


@pytest.mark.long
def test_the_report_needs_no_network(whole: Any) -> None:
    page, parsed = _page(whole)
    assert {address.split(":")[0] for address in parsed.addresses if not address.startswith("#")} == {"data"}
    assert not {"link", "iframe", "object", "embed"} & set(parsed.tags)
    assert page.count("Plotly.register") <= 1 or page.count("plotly.js v") == 1  # the library travels once
    assert "@import" not in page


@pytest.mark.long
def test_hostile_names_are_shown_not_run(hostile: Any) -> None:
    page, parsed = _page(hostile)
    assert "<script>alert(1)" not in page
    assert "evil.example" in page
    assert not any("evil.example" in address for address in parsed.addresses)
    assert "<a href='http://evil" not in page


@pytest.mark.long
def test_no_picture_of_a_marked_image_is_in_the_page(whole: Any) -> None:
    """Also where clusters of an earlier version chose one as typical."""
    findings = study_findings.gather_newest(whole.study)
    clusters = whole.runs["cluster"].read_json("clusters.json")["clusters"]
    typical = {item["medoids"][0] for item in clusters}
    assert typical
    assert not findings.hidden & {image_id for item in clusters for image_id in item["medoids"]}
    drawn = {data_uri(jpeg) for jpeg in thumbnails(findings.scan.path, sorted(typical), 168).values()}
    addresses = []
    for hidden in (findings.hidden, findings.hidden | typical):
        page, parsed = render(replace(findings, hidden=frozenset(hidden))), _Links()
        parsed.feed(page)
        addresses.append({address for address in parsed.addresses if address.startswith("data:image/jpeg")})
        n = int(findings.images["image_id"].isin(hidden).sum())
        assert wording.pictures_left_out(n, len(findings.images)) in page
    assert drawn <= addresses[0]
    assert addresses[1]
    assert not drawn & addresses[1]


@pytest.mark.long
def test_the_report_identifies_nobody(whole: Any) -> None:
    page, _ = _page(whole)
    manifest = pd.read_parquet(whole.runs["scan"].path / "manifest.parquet")
    for private in [*manifest["patient_source_id"].dropna().astype(str).unique(), *manifest["image_id"]]:
        assert private not in page
        assert private.rpartition("/")[2] not in page
    assert str(whole.study.path.parent) not in page
    assert "of P000" in page


def test_possible_confounding_comes_before_cleared_factors(whole: Any) -> None:
    _, parsed = _page(whole)
    text = " ".join(" ".join(parsed.text).split())
    order = [
        text.index(part) for part in ("What this model has learned", "explained by device", "operator with diagnosis")
    ]
    assert order == sorted(order)
    assert (
        "Possible confounding: device is associated with diagnosis. No evidence of confounding: operator and site."
        in text
    )
    assert wording.CLUSTER_SENTENCE in text
    assert "too few patients (7)" in text


def test_every_section_can_be_reached_from_the_contents(whole: Any) -> None:
    page, parsed = _page(whole)
    anchors = [address[1:] for address in parsed.addresses if address.startswith("#")]
    assert anchors == ["learned", "pairs", "source", "clusters", "map", "training", "methods", "provenance"]
    assert all(f'<section id="{anchor}">' in page for anchor in anchors)


@pytest.mark.long
def test_a_report_of_a_scan_alone_says_what_is_missing_and_that_patients_are_few(whole: Any) -> None:
    findings = study_findings.gather(whole.study, whole.runs["scan"], [])
    few = findings.images[findings.images["patient"].isin(findings.images["patient"].unique()[:6])]
    page = render(study_findings.Findings(**{**findings.__dict__, "images": few}))
    assert "Only 6 patients: too few for firm conclusions." in page
    assert "No clusters have been computed." in page
    assert "No probe has been run." in page


@pytest.mark.long
def test_repeating_gives_the_same_report(whole: Any) -> None:
    first = whole.report().path / "report.html"
    written = first.stat().st_mtime_ns
    again = whole.report()
    assert again.done
    assert first.stat().st_mtime_ns == written
    findings = study_findings.gather_newest(whole.study)
    assert render(findings) == render(findings)


@pytest.mark.long
def test_the_training_section_shows_what_was_learned(whole: Any, tmp_path: Path) -> None:
    def monitored(step: int, name: str, role: str, score: float) -> dict[str, Any]:
        known = {"kind": "categorical", "metric": "auroc", "chance": 0.5, "patients": 30, "images": 60, "note": ""}
        asked = {"step": step, "variable": name, "role": role, "score": score, "held_out": True}
        return {**known, **asked, "ci_low": score - 0.02, "ci_high": score + 0.02}

    lines = [
        monitored(s, n, r, v)
        for s, f in ((0, 0.6), (9, 0.9))
        for n, r, v in (("device", "acquisition", f), ("diagnosis", "clinical", 0.7))
    ]
    (tmp_path / "watch.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 9, "loss": 0.5, "grad_norm": 1.0}), encoding="utf-8")
    diagnosis = {"kind": "stagnation", "help": "a higher <learning> rate usually helps"}
    health = {"verdict": "Standing still since step 3.", "diagnoses": [diagnosis], "steps": 9, "dim": 64, "log_k": None}
    write_json(tmp_path / "health.json", health)
    findings = replace(
        study_findings.gather_newest(whole.study), pretrain=RunFolder(tmp_path, "pretrain", "mae", "k", True)
    )
    parsed = _Links()
    page = render(findings)
    parsed.feed(page)
    text = " ".join(" ".join(parsed.text).split())
    assert "Standing still since step 3." in text
    assert "a higher <learning> rate usually helps" in text
    assert "in patients of the training split who were held out from pretraining" in text
    assert "(0.60 → 0.90)" in text
    assert "0.90 (0.88 to 0.92)" in text
    assert "diagnosis is now" not in text
    assert "<learning>" not in page
