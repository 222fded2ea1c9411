"""How an audit was asked for: permutations, folds, bootstrap samples, seed, and which questions."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.errors import UserError
from pellucid.cohort.statistics import Patients
from pellucid.probes.inference.estimate import Estimate, probe
from pellucid.probes.inference.secondary_probes import Other
from pellucid.probes.inference.statistic import Target
from pellucid.probes.inputs.variables import MIN_PATIENTS

PER_QUESTION = 40  # permutations for each question of a family: then one question alone can reach a q-value of 0.025
_MINIMA = {"permutations": 19, "folds": 2, "bootstrap": 50}


@dataclass(frozen=True)
class AuditSettings:
    """The settings of an audit.

    Attributes:
        permutations: of patients; the smallest p-value is 1 / (permutations + 1).
        folds: of whole patients.
        bootstrap: samples of patients for the intervals.
        seed: of the whole audit; every question derives its seed from it and from its name.
        further: also neighbours, transfer, remedies and few-label curves.
        nonlinear: also a probe of boosted trees.
        p_values_only: no intervals and no other probes, for simulations.

    Raises:
        UserError: a number is too small, or there are more folds than patients in the smallest class that is probed.
    """

    permutations: int = 999
    folds: int = 5
    bootstrap: int = 400
    seed: int = 0
    further: bool = True
    nonlinear: bool = False
    p_values_only: bool = False

    def __post_init__(self) -> None:
        for name, least in _MINIMA.items():
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}; at least {least} are needed.")
        if self.seed < 0:
            raise UserError(f"seed is {self.seed}; a whole number from 0 is needed.")
        if self.folds > MIN_PATIENTS:
            raise UserError(
                f"folds is {self.folds}; at most {MIN_PATIENTS} are possible, the smallest number of patients in a "
                "class."
            )

    @property
    def others(self) -> tuple[Other, ...]:
        """The probes that are scored in addition to the ridge probe."""
        if self.p_values_only:
            return ()
        return ("logistic", "knn", "pooled", "nonlinear") if self.nonlinear else ("logistic", "knn", "pooled")

    def for_family(self, size: int) -> tuple[AuditSettings, str]:
        """These settings with enough permutations for a family of `size` questions, and a sentence if they were raised.

        The smallest p-value is 1 / (permutations + 1), and Benjamini and Hochberg multiply it by up to the size of the
        family: with too few permutations even a gross association could not reach a q-value of 0.05.
        """
        needed = PER_QUESTION * size - 1
        if self.permutations >= needed:
            return self, ""
        return replace(self, permutations=needed), (
            f"{needed:,} permutations were drawn, not {self.permutations:,}: with {size} questions in a family, fewer "
            "could not show even the strongest effect."
        )

    def as_recorded(self) -> dict[str, Any]:
        """For audit.json."""
        names = ("permutations", "folds", "bootstrap", "seed", "further", "nonlinear")
        return {name: getattr(self, name) for name in names}

    def probe(
        self, vectors: NDArray[np.floating], target: Target, patients: Patients, what: str, **more: Any
    ) -> Estimate:
        """`pellucid.probes.inference.estimate.probe` with these settings.

        The seed depends on the question `what`, not on its place in the list: adding a variable changes no other
        result.
        """
        return probe(
            vectors, target, patients, permutations=self.permutations, folds=self.folds, bootstrap=self.bootstrap,
            seed=self.seed_of(what), p_value_only=self.p_values_only, **more,
        )  # fmt: skip

    def seed_of(self, what: str) -> int:
        """The seed of one question."""
        return int(np.random.SeedSequence([self.seed, zlib.crc32(what.encode())]).generate_state(1)[0])
