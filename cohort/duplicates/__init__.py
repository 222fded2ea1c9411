"""Exact, pixel-identical and near-duplicate images."""

from pellucid.cohort.duplicates.copy_judge import MIN_SPREAD
from pellucid.cohort.duplicates.copy_limits import MIN_QUESTION, CopyLimits, copy_limits
from pellucid.cohort.duplicates.local_agreement import registered_agreement
from pellucid.cohort.duplicates.star_groups import StarGroups

__all__ = ["MIN_QUESTION", "MIN_SPREAD", "CopyLimits", "StarGroups", "copy_limits", "registered_agreement"]
