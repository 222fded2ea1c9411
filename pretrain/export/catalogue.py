"""Which backbone a study has pretrained last, for its scan as it is now."""

from __future__ import annotations

from pellucid.cohort.errors import UserError
from pellucid.cohort.runs import RunFolder, newest_runs
from pellucid.cohort.study import Study


def newest_backbone(study: Study, scan: RunFolder) -> RunFolder:
    """The newest finished pretrain run made from this scan.

    Raises:
        UserError: there is none.
    """
    runs = newest_runs(study.analysis, "pretrain", scan)
    if runs:
        return runs[-1]
    raise UserError(
        f"{study.path}: no backbone is pretrained on this scan yet: run `pellucid pretrain`, or name another with "
        "--backbone (pixels, timm-random:NAME, timm:NAME, hf:FOLDER, file:WEIGHTS@NAME or run:FOLDER: docs/embeddings.md)"
    )
