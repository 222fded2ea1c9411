"""Each variable predicted from the same images with and without their burned-in text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from pellucid.cohort.statistics import EventLevel
from pellucid.embed.store import Vectors
from pellucid.probes.inference.paired_comparison import Change, compare
from pellucid.probes.inputs.validation import AuditInput
from pellucid.probes.questions.variable_rows import metric_of, number, target_of
from pellucid.probes.verdicts import METRIC_NAMES


def text_masked(
    before: Vectors,
    after: Vectors,
    table: pd.DataFrame,
    named: dict[str, dict[str, str]],
    events: Mapping[str, EventLevel],
    folds: int = 5,
    bootstrap: int = 400,
    seed: int = 0,
) -> dict[str, Any]:
    """How well each variable is predicted from the same images before and after masking their burned-in text.

    Args:
        table: the manifest's rows in the order of `before`.
        events: of the binary variables.
    """
    place = pd.Series(np.arange(len(after.images)), index=after.images["image_id"]).reindex(before.images["image_id"])
    both = place.notna().to_numpy()
    values = np.asarray(before.values)[both], np.asarray(after.values)[place[both].to_numpy(dtype=np.int64)]
    rows = table[both].reset_index(drop=True)
    cohort = AuditInput.from_table(
        values[0], rows, "patient", named["clinical"], named["acquisition"], strict=False, positive=events
    )
    found = []
    for v in cohort.variables:
        row: dict[str, Any] = {"name": v.name, "role": v.role, "metric": metric_of(v)}
        change = Change()
        if not v.refusal:
            target, _ = target_of(v, v.usable)
            inside = cohort.patients.subset(v.usable)
            change = compare(
                values[0][v.usable], values[1][v.usable], target, inside,
                folds=folds, bootstrap=bootstrap, seed=seed,
            )  # fmt: skip
        row |= {key: number(value) for key, value in vars(change).items()}
        found.append(row | {"sentence": _text_sentence(row)})
    marked = rows["text_like"].fillna(False).astype(bool) if "text_like" in rows else pd.Series(False, rows.index)
    return {"backbone": after.name, "n_images": int(both.sum()), "n_marked": int(marked.sum()), "variables": found}


def _text_sentence(row: dict[str, Any]) -> str:
    if row["change"] is None:
        return f"{row['name']}: too few patients."
    scores = (
        f"{row['name']}: {METRIC_NAMES[row['metric']]} {row['before']:.2f} with the text in the images, "
        f"{row['after']:.2f} with the text masked (change {row['change']:+.2f}, {row['ci_low']:+.2f} to "
        f"{row['ci_high']:+.2f})"
    )
    if row["ci_high"] < 0:
        return f"{scores}: part of the prediction comes from the text."
    return f"{scores}: no evidence that the prediction uses the text that was found."
