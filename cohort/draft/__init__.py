"""Draft a study.yaml from a folder and a table."""

from pellucid.cohort.draft.study_draft import draft_study

__all__ = ["draft_study"]
