"""Statistics with the patient as the unit: resampling, permutations, association."""

from pellucid.cohort.statistics.association import Association, assign_q_values, associate
from pellucid.cohort.statistics.association_null import forget_orders
from pellucid.cohort.statistics.event_level import EVENT_WORDS, EventLevel, declared_level, event_level
from pellucid.cohort.statistics.patient_resampling import (
    IntArray,
    PatientPermutations,
    Patients,
    bootstrap_counts,
    deal_folds,
    drawn_evenly,
)
from pellucid.cohort.statistics.weighted_ranks import (
    along,
    auroc,
    below,
    correlation,
    ridits,
    rows_of_strata,
    sort_order,
    spearman,
)

__all__ = [
    "EVENT_WORDS",
    "Association",
    "EventLevel",
    "IntArray",
    "PatientPermutations",
    "Patients",
    "along",
    "assign_q_values",
    "associate",
    "auroc",
    "below",
    "bootstrap_counts",
    "correlation",
    "deal_folds",
    "declared_level",
    "drawn_evenly",
    "event_level",
    "forget_orders",
    "ridits",
    "rows_of_strata",
    "sort_order",
    "spearman",
]
