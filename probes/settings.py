"""How an audit was asked for."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.errors import UserError
from pellucid.cohort.statistics import Patients
from pellucid.probes.inference.estimate import Estimate, probe
from pellucid.probes.inference.secondary_probes import Other
from pellucid.probes.inference.statistic import Target
from pellucid.probes.inputs.variables import MIN_PATIENTS

PER_QUESTION = 40  # permutations for each question of a family: then one of them alone can reach a q-value of 0.025


class Settings:
    def __init__(
        self, permutations: int, folds: int, bootstrap: int, seed: int, further: bool = True, nonlinear: bool = False
    ) -> None:
        for name, value, least in (
            ("permutations", permutations, 19),
            ("folds", folds, 2),
            ("bootstrap", bootstrap, 50),
        ):
            if value < least:
                raise UserError(f"{name} is {value}; at least {least} are needed for an honest answer.")
        if folds > MIN_PATIENTS:
            raise UserError(f"folds is {folds}; at most {MIN_PATIENTS}, the fewest patients a class may have.")
        self.permutations, self.folds, self.bootstrap, self.seed = permutations, folds, bootstrap, seed
        self.further = further
        self.others: tuple[Other, ...] = ("logistic", "knn", "pooled", *(("nonlinear",) if nonlinear else ()))

    def enough_for(self, family: int) -> str:
        """Raise the permutations to what a family of so many questions needs; the sentence that says so, or nothing.

        The smallest p-value is 1 / (permutations + 1), and Benjamini and Hochberg multiply it by the size of the family: with too few
        even a gross association could not reach a q-value of 0.05, and would be acquitted by arithmetic.
        """
        asked, self.permutations = self.permutations, max(self.permutations, PER_QUESTION * family - 1)
        if asked == self.permutations:
            return ""
        return (
            f"{self.permutations:,} permutations were drawn, not {asked:,}: with {family} questions in a family, fewer could not "
            "make out even the grossest of them."
        )

    @property
    def asked(self) -> dict[str, Any]:
        """For audit.json."""
        names = ("permutations", "folds", "bootstrap", "seed", "further")
        return {**{name: getattr(self, name) for name in names}, "nonlinear": "nonlinear" in self.others}

    def probe(
        self, vectors: NDArray[np.floating], target: Target, patients: Patients, what: str, **more: Any
    ) -> Estimate:
        """The seed depends on the question, not on its place in the list: adding a variable changes no other result."""
        return probe(
            vectors, target, patients,
            permutations=self.permutations, folds=self.folds, bootstrap=self.bootstrap, seed=self.seed_of(what), **more,
        )  # fmt: skip

    def seed_of(self, what: str) -> int:
        return int(np.random.SeedSequence([self.seed, zlib.crc32(what.encode())]).generate_state(1)[0])
