"""The source audit: who was imaged with what, when and how well, before any model — counts, tests and plain sentences.

Called by `pellucid.cohort.scan` when the table has been joined; what it finds is `source.json`. Each section is a file
of its own, and every test in it is `permutation_tests.compare`: the patient is the unit. docs/source.md says what each
section means.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from pellucid.cohort.source_audit.acquisition_factors import associations, candidates, describe, describe_candidate
from pellucid.cohort.source_audit.calendar_drift import calendar_of, drift
from pellucid.cohort.source_audit.columns import SourceColumns, levels_of
from pellucid.cohort.source_audit.duplicate_counts import duplicates
from pellucid.cohort.source_audit.missingness import missing, who_is_missing
from pellucid.cohort.source_audit.permutation_tests import ALPHA
from pellucid.cohort.source_audit.privacy_counts import burned_in, privacy
from pellucid.cohort.source_audit.quality_bias import quality
from pellucid.cohort.source_audit.sample_size import events, images_per_patient, sample_size
from pellucid.cohort.source_audit.sentences import most_important
from pellucid.cohort.source_audit.split_balance import balance
from pellucid.cohort.statistics.association_null import forget_orders
from pellucid.cohort.study import Study

SCHEMA = "pellucid.source/1"

__all__ = ["ALPHA", "SCHEMA", "levels_of", "source_audit"]


def source_audit(study: Study, manifest: pd.DataFrame, problems: Sequence[str]) -> dict[str, Any]:
    """Count and test images and patients by everything that is known of how the images came to be.

    Args:
        study: names the variables and the seed.
        manifest: as `pellucid.cohort.manifest.join` builds it; columns of grades, header fields and duplicates may be
            absent.
        problems: sentences that the join gave.

    Returns:
        The content of `source.json` (schema `pellucid.source/1`). Every p-value is by permutation of whole patients,
        every q-value by Benjamini–Hochberg over the `family` named beside it.
    """
    usable = manifest[manifest["status"] == "ok"].reset_index(drop=True)
    unreadable = manifest[manifest["status"] == "unreadable"]
    cohort = SourceColumns.from_table(usable, study.variables, study.config.split.seed)
    when = calendar_of(usable, study.variables)
    declared = {variable.name for variable in study.variables}
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "n_files": int(manifest["file"].nunique()) if "file" in manifest else len(manifest),
        "n_images": len(usable),
        "n_patients": cohort.patients.n_patients,
        "images_per_patient": images_per_patient(cohort),
        "n_unreadable": len(unreadable),
        "n_unreadable_files": int(unreadable["file"].nunique()) if "file" in manifest else len(unreadable),
        "unreadable": unreadable[["image_id", "reason"]].to_dict("records"),
        "n_left_out": int((manifest["status"] == "no_row").sum()),
        "sample_size": sample_size(cohort),
        "events": events(cohort),
        "factors": [describe(cohort, column) for column in cohort.with_role("acquisition")],
        "candidates": [describe_candidate(cohort, column) for column in candidates(usable, declared)],
        "associations": associations(cohort),
        "associations_family": "every clinical variable and outcome against every acquisition factor",
        "missing": missing(cohort),
        "missingness": who_is_missing(cohort, when),
        "quality": quality(cohort, when),
        "calendar": drift(cohort, when),
        "duplicates": duplicates(usable),
        "burned_in": burned_in(cohort, study.config.scan.text),
        "privacy": privacy(cohort, study.config.scan.faces),
        "splits": {
            str(side): {"images": len(part), "patients": int(part["patient"].nunique())}
            for side, part in usable.groupby("split")
        },
        "split_balance": balance(cohort),
        "problems": list(problems),
    }
    report["findings"] = {entry["finding"]: entry["images"] for entry in report["privacy"]["findings"]}
    forget_orders()
    return report | most_important(report)
