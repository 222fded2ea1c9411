"""Findings as titled sections, tables and verdict cards, the same for the report and the explorer."""

from pellucid.explore.sections.audit_tables import FurtherTable, further_tables
from pellucid.explore.sections.source_sections import Section, sections
from pellucid.explore.sections.verdict_cards import Verdict, verdicts

__all__ = ["FurtherTable", "Section", "Verdict", "further_tables", "sections", "verdicts"]
