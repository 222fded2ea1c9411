"""Functions that test what the vectors encode: probe_study, audit_study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pellucid.api.opened_study import StudyOrPath, open_study
from pellucid.cohort.runs import RunFolder


def probe_study(
    study: StudyOrPath, overrides: Sequence[str] = (), *, config: Path | None = None, progress: bool = True
) -> RunFolder:
    """Measure how well each variable can be predicted from the vectors of each backbone.

    Args:
        study, overrides, config, progress: as for `scan_study`.

    Returns:
        The run of the stage `probe`, with `probes.json`.

    Raises:
        UserError: no current scan, no vectors, or no variables in study.yaml.
    """
    from pellucid.embed.store import newest_vectors
    from pellucid.probes import stage

    opened = open_study(study, overrides, config, with_vectors=True)
    vectors = list(newest_vectors(opened.study.analysis, opened.scan).values())
    return stage.probe_study(opened.study, opened.scan, vectors, progress=progress)


def audit_study(
    study: StudyOrPath,
    overrides: Sequence[str] = (),
    *,
    config: Path | None = None,
    backbone: str | None = None,
    progress: bool = True,
) -> RunFolder:
    """Audit the vectors of one backbone for confounding by acquisition.

    Args:
        study, config, progress: as for `scan_study`.
        overrides: for example `audit.permutations=1999`, `audit.nonlinear=true` or `audit.further=false`.
        backbone: whose vectors; None: the study's own.

    Returns:
        The run of the stage `audit`, with `audit.json` (docs/audit.md).

    Raises:
        UserError: no current scan, no vectors, or no variables in study.yaml.
    """
    from pellucid.probes import stage

    opened = open_study(study, overrides, config, backbone=backbone, with_vectors=True)
    return stage.audit_study(opened.study, opened.scan, opened.embedded, progress=progress)
