"""Find the newest backbone that a study has pretrained on its current scan."""

from __future__ import annotations

from pellucid.cohort.errors import UserError
from pellucid.cohort.runs import RunFolder, newest_runs
from pellucid.cohort.study import Study


def newest_backbone(study: Study, scan: RunFolder) -> RunFolder:
    """The newest finished pretrain run made from this scan.

    Raises:
        UserError: there is no such run.
    """
    runs = newest_runs(study.analysis, "pretrain", scan)
    if runs:
        return runs[-1]
    raise UserError(
        f"{study.path}: no backbone was pretrained on this scan yet: run `pellucid pretrain`, or choose another with "
        "--backbone (pixels, timm-random:NAME, timm:NAME, hf:FOLDER, file:WEIGHTS@NAME or run:FOLDER: "
        "docs/embeddings.md)"
    )
