"""Findings that may identify a patient: header attributes, names, burned-in text, faces."""

from pellucid.cohort.identifiers.shareable_images import shareable
from pellucid.cohort.identifiers.text_removal import without_text

__all__ = ["shareable", "without_text"]
