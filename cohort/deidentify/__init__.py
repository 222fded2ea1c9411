"""De-identification: a study in, a study that names nobody out, and the linkage file apart from both."""

from cohort.deidentify.verb import Deidentified, deidentify_study

__all__ = ["Deidentified", "deidentify_study"]
