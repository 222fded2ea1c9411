"""Further questions about a pair: transfer, labels of neighbours, and the effect of remedies.

Numeric variables are divided into the same strata as in the other questions
(`pellucid.probes.questions.within_strata`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.statistics import IntArray
from pellucid.probes.inference.statistic import Target
from pellucid.probes.inputs.variables import ProbeVariable
from pellucid.probes.questions.confounded_training import CONFOUNDING, performance_drop
from pellucid.probes.questions.neighbourhood import Neighbourhood, Neighbours
from pellucid.probes.questions.remedies import enough_of_each, recoded, remedies, remedy_sentence
from pellucid.probes.questions.transfer import transfer
from pellucid.probes.questions.variable_rows import number
from pellucid.probes.questions.within_strata import Pair
from pellucid.probes.settings import AuditSettings

FURTHER = ("transfer", "confounded_training", "neighbours", "remedies")


def transfer_rows(vectors: NDArray[np.floating], pair: Pair, settings: AuditSettings) -> dict[str, Any]:
    """`transfer` and `confounded_training`."""
    target, levels = pair.targets[0], pair.strata[1]
    seed = _seed(pair, settings)
    part = pair.part(vectors)
    moved = transfer(part, target, levels, pair.patients, seed)
    cost = performance_drop(part, target, levels, pair.patients, seed)
    names = _level_names(pair.acquisition, pair.rows, levels)
    return {
        "transfer": {
            "metric": target.metric,
            "levels": [
                {"level": names[level], "within": number(within), "across": number(across)}
                for level, (within, across) in zip(moved.levels, moved.by_level, strict=True)
            ],
            **{key: number(getattr(moved, key)) for key in ("within", "across", "drop", "ci_low", "ci_high")},
            "note": f"{moved.refusal}." if moved.refusal else "",
        },
        "confounded_training": {
            "levels": [names[level] for level in cost.levels],
            "confounding": list(CONFOUNDING),
            "scores": [number(score) for score in cost.scores],
            **{key: number(getattr(cost, key)) for key in ("average_drop", "ci_low", "ci_high")},
            "n_train": cost.n_train,
            "note": f"{cost.refusal}." if cost.refusal else "",
        },
    }


def remedy_rows(
    vectors: NDArray[np.floating], pair: Pair, errors: tuple[float, float], settings: AuditSettings
) -> dict[str, Any]:
    """`remedies`; errors as in `pellucid.probes.questions.remedies.remedies`."""
    y, z = pair.clinical, pair.acquisition
    clinical, acquisition = pair.targets
    tried = remedies(pair.part(vectors), clinical, acquisition, pair.patients, errors, _seed(pair, settings))
    return {
        "remedies": [
            {
                "name": result.name,
                **{
                    role: {
                        probe: dict(zip(("score", "ci_low", "ci_high"), map(number, s), strict=True))
                        for probe, s in by_probe.items()
                    }
                    for role, by_probe in (("acquisition", result.acquisition), ("clinical", result.clinical))
                },
                "sentence": result.note if result.name == "none" else remedy_sentence(result, tried[0], y.name, z.name),
            }
            for result in tried
        ],
    }  # fmt: skip


def neighbour_rows(vectors: NDArray[np.floating], pairs: Sequence[Pair], seed: int) -> list[dict[str, Any] | None]:
    """`neighbours` of pairs with the same rows and patients, whose neighbourhoods are computed once; None if there are
    too few.

    Only levels with ten patients take part, so that some pairs may still have different rows.
    """
    known: dict[bytes, Neighbourhood] = {}
    found: list[dict[str, Any] | None] = []
    for pair in pairs:
        coded = [Target(codes, int(codes.max()) + 1) for codes in pair.strata]
        kept = enough_of_each(coded, pair.patients)
        if kept is None:
            found.append(None)
            continue
        key = np.packbits(kept).tobytes()
        if key not in known:
            known[key] = Neighbourhood(pair.part(vectors)[kept], pair.patients.subset(kept), seed)
        levels = (np.asarray(recoded(target, kept).data, dtype=np.int64) for target in coded)
        found.append(_neighbours_row(pair, known[key].measure(*levels)))
    return found


def _neighbours_row(pair: Pair, near: Neighbours) -> dict[str, Any]:
    made = [f"{v.name} in strata of neighbouring values" for v in (pair.clinical, pair.acquisition) if v.is_ranked]
    return {
        **{key: number(value) if isinstance(value, float) else value for key, value in vars(near).items()},
        "note": f"{' and '.join(made)}." if made else "",
    }


def _seed(pair: Pair, settings: AuditSettings) -> int:
    return settings.seed_of(f"further {pair.clinical.name} {pair.acquisition.name}")


def _level_names(v: ProbeVariable, rows: NDArray[np.bool_], codes: IntArray) -> list[str]:
    """Names of the levels 0 …; for strata, their range."""
    found = []
    for level in range(int(codes.max()) + 1):
        if v.is_ranked:
            inside = v.values[rows][codes == level]
            low, high = f"{inside.min():g}", f"{inside.max():g}"
            found.append(low if low == high else f"{low} to {high}")
        else:
            found.append(v.levels[int(v.codes[rows][codes == level][0])])
    return found
