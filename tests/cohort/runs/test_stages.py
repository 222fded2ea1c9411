"""The stage table is sound: parents before children, one name each, and the documentation shows it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pellucid.cohort.runs import RunFolder, begin_run, descendants, finished_runs, list_runs
from pellucid.cohort.runs.stages import SECTIONS, STAGES, find_stage, position, stage_table
from pellucid.cohort.status import next_step
from pellucid.cohort.study import StudyConfig

DOCS = Path(__file__).parents[3] / "docs"


def test_parents_come_before_their_children() -> None:
    assert len({stage.name for stage in STAGES}) == len(STAGES)
    for place, stage in enumerate(STAGES):
        assert position(stage.name) == place
        for parent in stage.parent_stages:
            assert position(parent) < place or parent == stage.name == "embed"  # embed runs may be derived from others
    assert position("unknown") == len(STAGES)


@pytest.mark.parametrize(
    ("stage", "parents", "accepted"),
    [
        ("read", [], True),
        ("scan", [], False),
        ("embed", ["scan"], True),
        ("embed", ["scan", "pretrain"], True),
        ("embed", ["embed"], True),
        ("embed", ["scan", "scan"], False),
        ("probe", ["scan"], False),
        ("probe", ["scan", "embed", "embed", "embed"], True),
        ("audit", ["scan", "embed", "embed"], True),
        ("audit", ["scan", "embed", "embed", "embed"], False),
        ("report", ["scan", "embed", "audit", "near"], True),
        ("cluster", ["scan", "embed", "pretrain"], False),
    ],
)
def test_recorded_parents_are_compared_with_the_table(stage: str, parents: list[str], accepted: bool) -> None:
    assert find_stage(stage).accepts(parents) is accepted


def test_every_section_of_a_stage_is_a_key_of_study_yaml() -> None:
    assert SECTIONS == ("scan", "pretrain", "embed", "near", "cluster", "audit")
    assert set(SECTIONS) <= set(StudyConfig.model_fields)


def test_the_documentation_shows_this_table() -> None:
    assert stage_table() in (DOCS / "study.md").read_text(encoding="utf-8"), "print(stage_table()) into docs/study.md"


def rows(done: str, **others: str) -> list[dict[str, str]]:
    return [{"stage": name, "state": "done"} for name in done.split()] + [
        {"stage": name, "state": state} for name, state in others.items()
    ]


@pytest.mark.parametrize(
    ("runs", "variables", "sentence"),
    [
        (rows(""), True, "next: pellucid scan s, or pellucid run s for all remaining steps"),
        (rows("read"), True, "next: pellucid scan s, or"),
        (rows("read scan", pretrain="failed"), True, "next: pellucid pretrain s (it was interrupted), or"),
        (rows("read", scan="stale"), True, "next: pellucid scan s (inputs have changed), or"),
        (rows("read scan", pretrain="running"), True, "a run is in progress: wait until it ends"),
        (rows("scan pretrain embed near cluster"), True, "next: pellucid probe s, or"),
        (rows("scan pretrain embed near cluster"), False, "next: pellucid report s, or"),
        (rows("scan pretrain embed near cluster report"), False, "all steps are done: pellucid explore s"),
    ],
)
def test_status_names_the_next_stage_of_the_table(runs: list[dict[str, str]], variables: bool, sentence: str) -> None:
    assert next_step(runs, Path("s"), variables=variables).startswith(sentence)


def test_staleness_reaches_children_of_children_and_runs_whose_parent_is_gone(tmp_path: Path) -> None:
    def made(stage: str, *parents: RunFolder) -> RunFolder:
        with begin_run(tmp_path, stage, stage, {}, parents) as run:
            (run.path / "content").touch()
        return run

    read = made("read")
    scan = made("scan", read)
    vectors = made("embed", scan)
    near = made("near", vectors, scan)
    assert {run.key for run in finished_runs(tmp_path)} == {read.key, scan.key, vectors.key, near.key}
    assert [run.key for run in finished_runs(tmp_path, "embed")] == [vectors.key]
    assert descendants(finished_runs(tmp_path), {vectors.key}) == {vectors.key, near.key}

    def states(current: dict[str, str]) -> dict[str, str]:
        return {row["stage"]: row["state"] for row in list_runs(tmp_path, current)}

    assert set(states({"read": read.key, "scan": scan.key}).values()) == {"done"}
    assert states({"scan": "other"}) == {"read": "done", "scan": "stale", "embed": "stale", "near": "stale"}
    shutil.rmtree(vectors.path)
    assert states({}) == {"read": "done", "scan": "done", "near": "stale"}
