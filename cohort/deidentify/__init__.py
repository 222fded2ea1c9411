"""De-identification: a study in, a study that names nobody out, and the linkage file apart from both."""

from pellucid.cohort.deidentify.command import Deidentified, deidentify_study

__all__ = ["Deidentified", "deidentify_study"]
