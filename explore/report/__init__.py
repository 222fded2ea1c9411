"""The report: one self-contained HTML file."""

from pellucid.explore.report.stage import report

__all__ = ["report"]
