"""Which side of the split a patient stands on: a hash of patient and seed, so that adding images moves nobody."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import pandas as pd

from cohort.errors import UserError

SPLITS = ("train", "test", "external")


def hashed_split(patient: str, test: float, seed: int) -> str:
    """`test` for about that share of all patients there could be, `train` for the others; the same answer for ever."""
    digest = hashlib.sha256(f"{seed}:{patient}".encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") / 2**64 < test else "train"


def assign_splits(
    patients: Sequence[str],
    *,
    test: float,
    seed: int,
    column: Sequence[object] | None = None,
    column_name: str = "split",
    external: Mapping[str, tuple[Sequence[str | None], Sequence[str]]] | None = None,
) -> list[str]:
    """A split for each image, whole patients only.

    Args:
        patients: the patient of each image.
        test: share of patients for `test` where no column decides.
        seed: of the hash.
        column: the table's own split of each image (train or test), instead of the hash.
        external: {factor: (level of each image, levels held out)}; a patient with any image there is external whole.

    Raises:
        UserError: the column has other values, or puts one patient on two sides.
    """
    frame = pd.DataFrame({"patient": list(patients)})
    if column is None:
        sides = {p: hashed_split(p, test, seed) for p in frame["patient"].unique()}
        frame["split"] = frame["patient"].map(sides)
    else:
        frame["split"] = [str(value).strip().lower() for value in column]
        wrong = sorted(set(frame["split"]) - set(SPLITS))
        if wrong:
            raise UserError(f"split column `{column_name}`: has `{wrong[0]}`; only {', '.join(SPLITS)} are known")
        sides_each = frame.groupby("patient")["split"].nunique()
        torn = sides_each[sides_each > 1]
        if len(torn):
            raise UserError(
                f"split column `{column_name}`: puts {len(torn)} patient(s) on two sides; give all rows of a patient "
                "one value"
            )
    for values, levels in (external or {}).values():
        held_out = set(levels)
        outside = frame.loc[[value in held_out for value in values], "patient"].unique()
        frame.loc[frame["patient"].isin(outside), "split"] = "external"
    return [str(side) for side in frame["split"]]


def research_ids(patients: Sequence[str], seed: int) -> dict[str, str]:
    """Research id of each patient: a running number in the order of a hash, which tells nothing of the original id."""
    order = sorted(set(patients), key=lambda p: hashlib.sha256(f"research:{seed}:{p}".encode()).digest())
    width = max(4, len(str(len(order))))
    return {patient: f"P{number:0{width}d}" for number, patient in enumerate(order, start=1)}
