"""Stage `report`: finished runs → one self-contained HTML page for co-authors and reviewers.

The last stage: `gather` reads the runs, `page` renders them.
"""

from __future__ import annotations

from collections.abc import Sequence

from pellucid.cohort.runs import RunFolder, atomic_path, begin_run
from pellucid.cohort.runs.stages import find_stage
from pellucid.cohort.study import Study
from pellucid.explore.report.page import render
from pellucid.explore.study_findings import gather, study_title

SCHEMA = "pellucid.report/1"


def report(
    study: Study,
    scan: RunFolder,
    vectors_runs: Sequence[RunFolder],
    cluster_run: RunFolder | None,
    probe_run: RunFolder | None,
    audit_run: RunFolder | None,
    pretrain_run: RunFolder | None = None,
    near_run: RunFolder | None = None,
) -> RunFolder:
    """Write report.html from finished runs; the page names stages that are None as missing.

    Returns:
        The `report` run; its folder holds report.html, which needs nothing else and no network.
    """
    given: dict[str, Sequence[RunFolder | None]] = {
        "scan": [scan], "embed": vectors_runs, "cluster": [cluster_run], "probe": [probe_run], "audit": [audit_run],
        "pretrain": [pretrain_run], "near": [near_run],
    }  # fmt: skip
    parents = [run for name in find_stage("report").parent_stages for run in given[name] if run is not None]
    config = {"schema": SCHEMA, "title": study_title(study)}
    with begin_run(study.analysis, "report", "report", config, parents) as run:
        if run.done:
            return run
        findings = gather(
            study,
            scan,
            vectors_runs,
            [cluster_run] if cluster_run else [],
            probe_run,
            [audit_run] if audit_run else [],
            pretrain_run,
            near_run,
        )
        with atomic_path(run.path / "report.html") as temporary:
            temporary.write_text(render(findings, parents), encoding="utf-8")
    return run
