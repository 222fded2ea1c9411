"""Exact, pixel-identical and near-duplicate images."""

from pellucid.cohort.duplicates.near_duplicates import (
    MIN_CORRELATION,
    MIN_SPREAD,
    Groups,
    fine_structure,
    structure_correlation,
)

__all__ = ["MIN_CORRELATION", "MIN_SPREAD", "Groups", "fine_structure", "structure_correlation"]
